import json
import os

import pytest
import safetensors.torch
import torch

from rnnx_models import get_recipe
from rnnx_models.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from rnnx_models.train import train


@pytest.fixture
def checkpoint(tmp_path):
    recipe_type = get_recipe("emb_rnn")
    trained = train(recipe_type(recipe_type.config_type()), epochs=3)
    save_checkpoint(tmp_path / "emb_rnn.safetensors", trained.header, trained.weights)
    return tmp_path / "emb_rnn.safetensors"


def changed(path, metadata=None, **tensors):
    with safetensors.safe_open(path, framework="pt") as file:
        kept = file.metadata()
    save = safetensors.torch.load_file(path) | tensors
    path.write_bytes(safetensors.torch.save(save, kept if metadata is None else metadata))
    return path


def test_a_checkpoint_gives_the_module_back(checkpoint):
    recipe, module = load_checkpoint(checkpoint, "emb_rnn")
    assert recipe.name == "emb_rnn"
    assert not module.training
    saved = safetensors.torch.load_file(checkpoint)
    assert all(torch.equal(saved[name], tensor) for name, tensor in module.state_dict().items())


def test_the_same_seed_gives_the_same_bytes(checkpoint, tmp_path):
    recipe_type = get_recipe("emb_rnn")
    for seed, same in ((0, True), (1, False)):
        train(recipe_type(recipe_type.config_type()), epochs=3, seed=seed, path=tmp_path / "again.safetensors")
        assert ((tmp_path / "again.safetensors").read_bytes() == checkpoint.read_bytes()) is same


def test_a_checkpoint_of_another_model_is_refused(checkpoint):
    with pytest.raises(CheckpointError, match="is a checkpoint of 'emb_rnn', not of 'gru'; give the one that fits"):
        load_checkpoint(checkpoint, "gru")


def test_a_missing_checkpoint_says_how_to_make_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="make one with `rnnx train`"):
        load_checkpoint(tmp_path / "none.safetensors")


def test_weights_that_do_not_fit_are_listed(checkpoint):
    changed(checkpoint, **{"fc.weight": torch.zeros(4, 9), "extra": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"does not fit emb_rnn.*extra.*fc\.weight"):
        load_checkpoint(checkpoint)


def test_weights_that_are_not_finite_are_refused(checkpoint):
    changed(checkpoint, **{"fc.bias": torch.full((4,), float("inf"))})
    with pytest.raises(CheckpointError, match=r"fc\.bias holds NaN or infinity"):
        load_checkpoint(checkpoint)


@pytest.mark.parametrize("metadata", [{}, {"rnnx": "{}"}, {"rnnx": '{"model": "emb_rnn", "config": {}, "surprise": 1}'}])
def test_foreign_safetensors_are_refused(checkpoint, metadata):
    with pytest.raises(CheckpointError, match="is not a checkpoint made by `rnnx train`"):
        load_checkpoint(changed(checkpoint, metadata))


@pytest.mark.parametrize("content", [b"", b"text", b"\xff" * 100])
def test_other_files_are_refused(content, tmp_path):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(CheckpointError, match="is not a checkpoint made by `rnnx train`"):
        load_checkpoint(tmp_path / "file")


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        load_checkpoint(tmp_path)


def test_unknown_settings_are_refused(checkpoint):
    with safetensors.safe_open(checkpoint, framework="pt") as file:
        header = file.metadata()["rnnx"]
    changed(checkpoint, {"rnnx": header.replace('"hidden"', '"hiden"')})
    with pytest.raises(CheckpointError, match="does not fit emb_rnn.*hiden"):
        load_checkpoint(checkpoint)


def with_config(path, **config):
    with safetensors.safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["rnnx"])
    header["config"] |= config
    return changed(path, {"rnnx": json.dumps(header)})


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"hidden": 10**9}, "its hidden would need more tensors than there are"),
        ({"layers": 10**9}, "its layers would need more tensors than there are"),
        ({"hidden": 9}, r"of another shape: fc\.weight \(4, 8\), not \(4, 9\)"),
        ({"hidden": -1}, "does not fit emb_rnn: "),
    ],
)
def test_sizes_are_compared_before_room_is_made_for_a_module(checkpoint, config, said, monkeypatch):
    build = get_recipe("emb_rnn").build

    def watched(recipe):
        assert torch.get_default_device().type == "meta", "room is made"
        return build(recipe)

    monkeypatch.setattr(get_recipe("emb_rnn"), "build", watched)
    with pytest.raises(CheckpointError, match=said):
        load_checkpoint(with_config(checkpoint, **config))


def test_weights_of_another_type_are_refused(checkpoint):
    changed(checkpoint, **{"fc.bias": torch.zeros(4, dtype=torch.float64)})
    with pytest.raises(CheckpointError, match=r"fc\.bias is float64, and float32 in the module"):
        load_checkpoint(checkpoint)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="no regular file; give the path of a checkpoint"):
        load_checkpoint(tmp_path / "pipe")
