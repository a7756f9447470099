"""The code on the pages runs as it stands there."""

import re
import shutil
from pathlib import Path

import pytest
from tests.runtime import frames
from tests.runtime.test_trust import GELU, gelu

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", "docs/bench.md", "docs/quantize.md", "docs/runtime.md", "docs/shapes.md"]
ARTIFACTS = {
    "model.onnx": "char_rnn.onnx",
    "sensor.onnx": "lstm.onnx",
    "trend.onnx": "gru.onnx",
}  # that docs/runtime.md speaks of


@pytest.mark.parametrize("page", PAGES)
def test_every_python_block_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, golden in ARTIFACTS.items():
        shutil.copy(ROOT / "tests" / "golden" / golden, name)
    Path("detector.onnx").write_bytes(frames.artifact("frozen"))
    Path("gelu.onnx").write_bytes(gelu(trusted=(GELU,)))
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert blocks
    names: dict[str, object] = {"__name__": "page"}
    for number, block in enumerate(blocks, 1):
        exec(compile(block, f"{page}, block {number}", "exec"), names)
