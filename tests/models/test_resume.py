"""Stopping and going on: a resumed training makes the same bytes as an unbroken one, and nothing else is resumed."""

import json
import signal

import pytest
import safetensors.torch
import torch

from rnnx_models._resume import resume_path, save_training
from rnnx_models.checkpoint import CheckpointError, CheckpointHeader, load_checkpoint, read_tensors, save_checkpoint
from rnnx_models.train import SettingsError, TrainingInterruptedError, train

SHORT = {"epochs": 4, "batch_size": 8, "seq_len": 16}


@pytest.fixture
def interrupted(make_small, stop_at, path):
    """A character model's training, stopped in the middle of its second epoch."""
    with pytest.raises(TrainingInterruptedError):
        train(make_small(), **SHORT, path=path, on_progress=stop_at(2, 30))
    return path


@pytest.mark.parametrize("stop", [(2, None), (1, 3), (4, None)], ids=["after an epoch", "in an epoch", "at the end"])
@pytest.mark.parametrize("name", ["emb_rnn", "sin_lstm", "caption_rnn", "char_lstm", "char_gru"])
def test_a_resumed_training_is_the_same_as_an_unbroken_one(name, stop, make, make_small, stop_at, tmp_path, monkeypatch):
    monkeypatch.setattr("rnnx_models.caption_rnn._IMAGES", 160)
    monkeypatch.setattr("rnnx_models.caption_rnn._JUDGED", 100)
    recipe = make_small(name) if name.startswith("char") else make(name)
    settings = {"epochs": 4} | ({} if name == "emb_rnn" else {"batch_size": 16})
    if name == "emb_rnn" and stop == (1, 3):
        stop = (1, 1)  # its epochs have one step
    whole = train(recipe, seed=3, **settings, path=tmp_path / "whole.safetensors")
    broken = tmp_path / "broken.safetensors"
    with pytest.raises(TrainingInterruptedError):
        train(recipe, seed=3, **settings, path=broken, on_progress=stop_at(*stop))
    resumed = train(recipe, path=broken, resume=True)
    assert broken.read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    assert resumed.curve == whole.curve
    assert not resume_path(broken).exists()


def test_a_training_can_be_stopped_again_and_again(make_small, stop_at, tmp_path):
    train(make_small(), **SHORT, path=tmp_path / "whole.safetensors")
    broken, resume = tmp_path / "broken.safetensors", False
    for stop in ((1, 1), (1, 2), (2, 40), (3, None)):
        with pytest.raises(TrainingInterruptedError):
            train(make_small(), **SHORT, path=broken, resume=resume, on_progress=stop_at(*stop))
        resume = True
    train(make_small(), path=broken, resume=True)
    assert broken.read_bytes() == (tmp_path / "whole.safetensors").read_bytes()


def test_ctrl_c_waits_for_the_step_saves_and_says_where(make_small, path):
    steps = []

    def press(here):
        steps.append(here.step)
        if len(steps) == 5:
            signal.raise_signal(signal.SIGINT)
            steps.append("pressed")  # the handler did not raise here

    with pytest.raises(TrainingInterruptedError, match=r"^stopped in epoch 1 of 4, after step 5 of \d+; saved as .*resume"):
        train(make_small(), **SHORT, path=path, on_progress=press)
    assert steps == [1, 2, 3, 4, 5, "pressed"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert resume_path(path).exists()
    assert not path.exists()  # no epoch was judged


def test_a_second_ctrl_c_loses_nothing(make_small, path, monkeypatch):
    said = []

    def press(here):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    def save(*arguments):
        signal.raise_signal(signal.SIGINT)
        save_training(*arguments)

    monkeypatch.setattr("rnnx_models.train.save_training", save)
    with pytest.raises(TrainingInterruptedError):
        train(make_small(), **SHORT, path=path, on_progress=press, on_stop=lambda: said.append("stopping"))
    assert said == ["stopping"] * 3
    monkeypatch.undo()
    train(make_small(), path=path, resume=True)


def test_ctrl_c_does_not_break_off_the_last_saving(make, path, monkeypatch):
    def save(*arguments):
        signal.raise_signal(signal.SIGINT)
        save_checkpoint(*arguments)

    monkeypatch.setattr("rnnx_models.train.save_checkpoint", save)
    train(make("emb_rnn"), epochs=1, path=path)
    assert path.exists()


def test_without_a_path_ctrl_c_is_what_it_always_is(make_small, stop_at):
    with pytest.raises(KeyboardInterrupt):
        train(make_small(), **SHORT, on_progress=stop_at(1, 1))


def test_an_interrupted_training_leaves_the_best_checkpoint_so_far(make_small, interrupted):
    _, module = load_checkpoint(interrupted, "char_lstm")
    first = train(make_small(), **SHORT).curve.scores[0]
    module_score = make_small().score(module).value
    assert module_score == pytest.approx(first, rel=1e-6)
    header, *_ = read_tensors(interrupted, "rnnx", CheckpointHeader, "a checkpoint", "checkpoint", "char_lstm")
    assert header.score == first
    assert header.best_epoch == 1


def test_the_mean_loss_of_an_epoch_is_the_same_after_resuming(make_small, stop_at, path):
    whole, resumed = [], []
    train(make_small(), **SHORT, on_progress=whole.append)
    with pytest.raises(TrainingInterruptedError):
        train(make_small(), **SHORT, path=path, on_progress=stop_at(2, 30))
    train(make_small(), path=path, resume=True, on_progress=resumed.append)
    assert resumed == whole[-len(resumed) :]


def test_nothing_to_resume(make, path):
    with pytest.raises(CheckpointError, match=r"^no interrupted training at .*model\.safetensors\.resume; begin one without"):
        train(make("emb_rnn"), path=path, resume=True)


def test_a_training_of_another_model_is_refused(make, interrupted):
    with pytest.raises(
        CheckpointError, match="is an interrupted training of 'char_lstm', not of 'emb_rnn'; give the one that fits"
    ):
        train(make("emb_rnn"), path=interrupted, resume=True)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lr": 0.5}, r"with lr 0\.008, not 0\.5; give the same, or delete that file to begin anew"),
        ({"epochs": 9, "seq_len": 5}, "with epochs 4, not 9; seq_len 16, not 5;"),
        ({"seed": 1}, "with seed 0, not 1;"),
        ({"hidden": 32}, "with hidden 16, not 32;"),
        (
            {"text": "other text " * 500},
            "learns from another text, of SHA-256 [0-9a-f]{12}…, not [0-9a-f]{12}…; give the text .*: --text FILE",
        ),
    ],
)
def test_other_settings_are_refused(given, message, make_small, interrupted):
    sizes = {name: given.pop(name) for name in ("hidden", "text") if name in given}
    before = {path: path.read_bytes() for path in interrupted.parent.iterdir()}
    with pytest.raises(CheckpointError, match=message):
        train(make_small(**sizes), **given, path=interrupted, resume=True)
    assert {path: path.read_bytes() for path in interrupted.parent.iterdir()} == before


def change_header(path, **fields):
    with safetensors.safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["rnnx.training"])
    path.write_bytes(safetensors.torch.save(safetensors.torch.load_file(path), {"rnnx.training": json.dumps(header | fields)}))


def changed(path, **tensors):
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    kept = {name: tensor for name, tensor in (safetensors.torch.load_file(path) | tensors).items() if tensor is not None}
    path.write_bytes(safetensors.torch.save(kept, metadata))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            {"module.fc.bias": torch.full((64,), float("nan"))},
            r"module\.fc\.bias holds NaN or infinity; train the model again",
        ),
        ({"module.fc.bias": torch.zeros(3)}, "the training does not fit char_lstm"),
        ({"module.fc.bias": None}, "the training does not fit char_lstm"),
        ({"random.cpu": None}, "the training does not fit char_lstm"),
        ({"random.cpu": torch.zeros(3)}, "the training does not fit char_lstm"),
        ({"carried.0": torch.zeros(1, 3, 16)}, "the training does not fit char_lstm"),
        ({"optimizer.0.exp_avg": torch.zeros(3)}, "the training does not fit char_lstm"),
        ({"losses": torch.zeros(3)}, "the training does not fit char_lstm: 3 losses and 1 scores are not those of 1 epochs"),
    ],
    ids=[
        *("not finite", "another shape", "missing", "no random state", "wrong random state"),
        *("another batch", "another optimiser's", "another length"),
    ],
)
def test_a_damaged_training_is_refused(tensors, message, make_small, interrupted):
    changed(resume_path(interrupted), **tensors)
    with pytest.raises(CheckpointError, match=message):
        train(make_small(), path=interrupted, resume=True)


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (
            {"epoch": 99},
            "is not an interrupted training made by `rnnx train`: epoch 99, step 30 and seed 0 are of no training",
        ),
        ({"step": -1}, "epoch 1, step -1 and seed 0 are of no training"),
        ({"seed": 2**40}, "are of no training"),
        ({"lr": 0.0}, "lr must be above 0"),
        ({"best": None}, "the best epoch is not one of the 1 that are done"),
        ({"epoch": 4}, "it has 4 epochs of 56 steps, and step 30 of 4 is none"),
        ({"step": 56}, "it has 4 epochs of 56 steps, and step 56 of 1 is none"),
        ({"step": 29}, "86 losses and 1 scores are not those of 1 epochs"),
        ({"optimizer": "SGD (lr: 0.005)"}, r"its optimiser was SGD \(lr: 0.005\), and now is AdamW"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_damaged_header_is_refused(field, message, make_small, interrupted):
    change_header(resume_path(interrupted), **field)
    with pytest.raises(CheckpointError, match=rf"model\.safetensors\.resume[: ].*{message}"):
        train(make_small(), path=interrupted, resume=True)


def test_a_plain_training_does_not_delete_an_interrupted_one(make, interrupted):
    before = resume_path(interrupted).read_bytes()
    message = r"resume is an interrupted training; go on with it \(train with --resume\), or delete that file to begin anew$"
    with pytest.raises(SettingsError, match=message):
        train(make("emb_rnn"), path=interrupted)
    assert resume_path(interrupted).read_bytes() == before
    resume_path(interrupted).unlink()
    train(make("emb_rnn"), epochs=1, path=interrupted)


def test_every_checkpoint_has_a_resume_file_of_its_own():
    assert len({resume_path(name) for name in ("model", "model.v1", "model.v2", "model.safetensors")}) == 4


def test_a_checkpoint_is_no_interrupted_training(make, path):
    train(make("emb_rnn"), epochs=1, path=path)
    path.rename(resume_path(path))
    with pytest.raises(CheckpointError, match="is not an interrupted training"):
        train(make("emb_rnn"), path=path, resume=True)


def test_an_interrupted_training_is_no_checkpoint(interrupted):
    with pytest.raises(CheckpointError, match="is not a checkpoint made by `rnnx train`"):
        load_checkpoint(resume_path(interrupted))
