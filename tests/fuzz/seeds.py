"""What the fuzzers start from: the golden artifacts and small ones made by hand, and what their models give.

`python -m tests.fuzz.seeds` writes the folder `corpus` anew, which is to be done where the golden artifacts or a format changed.
"""

from pathlib import Path
from typing import Final

from tests.fuzz.targets import GOLDEN
from tests.runtime import frames, handmade

from rnnx_runtime import load
from rnnx_runtime._manifest import MANIFEST_KEY
from rnnx_runtime._snapshot import _CHECK
from rnnx_runtime.artifact import open_artifact

CORPUS: Final = Path(__file__).parent / "corpus"

_ARTIFACTS: Final = {
    "lstm": (GOLDEN / "lstm.onnx").read_bytes,
    "running_sum": handmade.running_sum,
    "computed": lambda: handmade.computed_sum(handmade.doubling()),
    "without_rows": lambda: frames.artifact("without_rows"),
}


def seeds() -> dict[str, dict[str, bytes]]:
    """By target and name, what is in the folder `corpus`."""
    artifacts = {name: make() for name, make in _ARTIFACTS.items()}
    said = {name: artifacts[name] for name in ("lstm", "computed", "without_rows")}
    said["char_rnn"] = (GOLDEN / "char_rnn.onnx").read_bytes()
    return {
        "artifact": {name: data[: -handmade.SEAL_SIZE] for name, data in artifacts.items()},
        "manifest": {name: open_artifact(data).graph.metadata[MANIFEST_KEY].encode() for name, data in said.items()},
        "snapshot": {name: data[:-_CHECK] for name, data in _snapshots().items()},
    }


def _snapshots() -> dict[str, bytes]:
    model = load(GOLDEN / "char_rnn.onnx")
    options = {"temperature": 0.9, "top_k": 4, "top_p": 0.95, "min_p": 0.01, "repetition_penalty": 1.2, "seed": 11}
    generation = model.stream().generate("hell", 9, stop="ollh", **options)
    zeros = {name: array * 0 for name, array in model.initial_state(2).items()}
    return {"state": model.make_state(zeros).to_bytes(), "generation": generation.to_bytes()}


if __name__ == "__main__":
    for target, files in seeds().items():
        (CORPUS / target).mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            (CORPUS / target / name).write_bytes(data)
