import importlib.util
import json
from pathlib import Path

import pytest

from rnnx_runtime.artifact import MANIFEST_KEY, open_artifact

GOLDEN = Path(__file__).parent.parent / "golden"
NAMES = ["char_rnn.onnx", "gru.onnx", "lstm.onnx"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """What make.py gives today, by file name."""
    spec = importlib.util.spec_from_file_location("make", GOLDEN / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {path.name: path for path in module.make(tmp_path_factory.mktemp("golden"))}


def _contract(path):
    """The manifest as it is written, without what other weights and other versions of torch may change."""
    manifest = json.loads(open_artifact(path).graph.metadata[MANIFEST_KEY])
    for state in manifest["states"]:
        state["init"].get("value", {}).pop("data", None)
    assert len(manifest["golden"].pop("sha256")) == 64
    for arrays in manifest["golden"].values():
        for array in arrays.values():
            del array["data"]
    return manifest | {"parity": manifest["parity"].keys(), "provenance": manifest["provenance"].keys()}


def test_the_committed_files_are_those_that_are_made(made):
    assert sorted(made) == sorted(path.name for path in GOLDEN.glob("*.onnx")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_committed_files_have_the_contract_of_today(made, name):
    assert _contract(GOLDEN / name) == _contract(made[name])


@pytest.mark.parametrize("name", NAMES)
def test_the_committed_files_are_small(name):
    assert (GOLDEN / name).stat().st_size < 25_000
