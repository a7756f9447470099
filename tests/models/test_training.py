"""Training: the same seed gives the same bytes, interrupted or not; what goes wrong leaves the last good checkpoint."""

import signal

import pytest
import safetensors.torch
import torch

from rnnx_models._recipe import Score
from rnnx_models._resume import resume_path
from rnnx_models.checkpoint import CheckpointError, load_checkpoint
from rnnx_models.train import SettingsError, TrainingError, TrainingInterruptedError, train

SHORT = {"epochs": 4, "batch_size": 8, "seq_len": 16}


@pytest.fixture
def make_char(make_char, prose):
    return lambda name="char_lstm", text=prose[:8000], **sizes: make_char(name, text, **({"hidden": 16} | sizes))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


@pytest.fixture
def interrupted(make_char, stop_at, path):
    """A character model's training, stopped in the middle of its second epoch."""
    with pytest.raises(TrainingInterruptedError):
        train(make_char(), **SHORT, path=path, on_progress=stop_at(2, 30))
    return path


@pytest.mark.parametrize("stop", [(2, None), (1, 3), (4, None)], ids=["after an epoch", "in an epoch", "at the end"])
@pytest.mark.parametrize("name", ["emb_rnn", "sin_lstm", "caption_rnn", "char_lstm", "char_gru"])
def test_a_resumed_training_is_the_same_as_an_unbroken_one(name, stop, make, make_char, stop_at, tmp_path, monkeypatch):
    monkeypatch.setattr("rnnx_models.caption_rnn._IMAGES", 160)
    monkeypatch.setattr("rnnx_models.caption_rnn._JUDGED", 100)
    recipe = make_char(name) if name.startswith("char") else make(name)
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


def test_a_training_can_be_stopped_again_and_again(make_char, stop_at, tmp_path):
    train(make_char(), **SHORT, path=tmp_path / "whole.safetensors")
    broken, resume = tmp_path / "broken.safetensors", False
    for stop in ((1, 1), (1, 2), (2, 40), (3, None)):
        with pytest.raises(TrainingInterruptedError):
            train(make_char(), **SHORT, path=broken, resume=resume, on_progress=stop_at(*stop))
        resume = True
    train(make_char(), path=broken, resume=True)
    assert broken.read_bytes() == (tmp_path / "whole.safetensors").read_bytes()


def test_ctrl_c_waits_for_the_step_saves_and_says_where(make_char, path):
    steps = []

    def press(here):
        steps.append(here.step)
        if len(steps) == 5:
            signal.raise_signal(signal.SIGINT)
            steps.append("pressed")  # the handler did not raise here

    with pytest.raises(TrainingInterruptedError, match=r"^stopped in epoch 1 of 4, after step 5 of \d+; saved as .*resume"):
        train(make_char(), **SHORT, path=path, on_progress=press)
    assert steps == [1, 2, 3, 4, 5, "pressed"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert resume_path(path).exists()
    assert not path.exists()  # no epoch was judged


def test_a_second_ctrl_c_does_not_wait(make_char, path):
    def press(here):
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(TrainingInterruptedError):
        train(make_char(), **SHORT, path=path, on_progress=press)


def test_without_a_path_ctrl_c_is_what_it_always_is(make_char, stop_at):
    with pytest.raises(KeyboardInterrupt):
        train(make_char(), **SHORT, on_progress=stop_at(1, 1))


def test_an_interrupted_training_leaves_the_best_checkpoint_so_far(make_char, interrupted):
    _, module = load_checkpoint(interrupted, "char_lstm")
    first = train(make_char(), **SHORT).curve.scores[0]
    module_score = make_char().score(module).value
    assert module_score == first


def test_the_best_weights_are_kept_not_the_last(make, monkeypatch):
    scores = iter([3.0, 1.0, 2.0])
    recipe = make("sin_lstm")
    monkeypatch.setattr(recipe, "score", lambda module: Score(next(scores), "error", False, lower_is_better=True))
    trained = train(recipe, epochs=3)
    assert (trained.header.epochs, trained.header.score) == (2, 1.0)
    assert trained.curve.scores == [3.0, 1.0, 2.0]
    unbroken = make("sin_lstm")
    kept = []
    monkeypatch.setattr(unbroken, "score", lambda module: (kept.append(module.out.bias.item()), Score(1.0, "", True))[1])
    train(unbroken, epochs=3)
    assert trained.weights["out.bias"].item() == kept[1]


def test_checkpoint_and_training_are_saved_now_and_then(make, path, monkeypatch):
    monkeypatch.setattr("rnnx_models.train._SAVE_EVERY", 0.0)
    seen = []
    train(make("emb_rnn"), epochs=3, path=path, on_progress=lambda here: seen.append(resume_path(path).exists()))
    assert seen == [False, True, True]
    assert not resume_path(path).exists()


def test_progress_counts_steps_and_epochs(make_char):
    seen = []
    trained = train(make_char(), **SHORT, on_progress=seen.append)
    steps = seen[0].steps
    assert [(here.epoch, here.step) for here in seen] == [(e, s) for e in range(1, 5) for s in range(1, steps + 1)]
    assert [here.score.value for here in seen if here.step == here.steps] == trained.curve.scores
    assert seen[0].score is None
    assert seen[-1].done == 1.0
    assert len(trained.curve.losses) == 4 * steps


class Diverging:
    """A recipe's `loss` that is not finite from some step on."""

    def __init__(self, loss, bad_from, value):
        self.loss, self.calls, self.bad_from, self.value = loss, 0, bad_from, value

    def __call__(self, module, batch, carried):
        self.calls += 1
        loss, carried = self.loss(module, batch, carried)
        return loss * (self.value if self.calls >= self.bad_from else 1.0), carried


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_training_that_diverges_stops_and_keeps_the_last_good_checkpoint(value, make, path, monkeypatch):
    recipe = make("emb_rnn")
    monkeypatch.setattr(recipe, "loss", Diverging(recipe.loss, 3, value))
    message = (
        rf"^the loss is {value}, in epoch 3 after 0 of 1 steps; lower the learning rate\. "
        r"The best weights, of epoch \d, are in .*model\.safetensors$"
    )
    with pytest.raises(TrainingError, match=message):
        train(recipe, path=path)
    _, module = load_checkpoint(path, "emb_rnn")
    assert all(tensor.isfinite().all() for tensor in module.state_dict().values())
    assert not resume_path(path).exists()


def test_a_training_that_diverges_in_its_first_epoch_saves_nothing(make, path, monkeypatch):
    recipe = make("emb_rnn")
    monkeypatch.setattr(recipe, "loss", Diverging(recipe.loss, 1, float("nan")))
    with pytest.raises(TrainingError, match="Nothing was saved: it came before the end of the first epoch"):
        train(recipe, path=path)
    assert not list(path.parent.iterdir())


def test_a_gradient_that_is_not_finite_never_reaches_the_weights(make, monkeypatch):
    recipe = make("emb_rnn")

    def steep(module, batch, carried):
        return (module.fc.bias.abs().sum() * 0).sqrt(), carried  # 0, with the gradient of a square root there

    monkeypatch.setattr(recipe, "loss", steep)
    with pytest.raises(TrainingError, match="the gradient's norm is nan, in epoch 1"):
        train(recipe)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"batch_size": -3}, "batch_size must be at least 1, got -3"),
        ({"seq_len": 0}, "seq_len must be at least 1, got 0"),
        ({"lr": 0.0}, "lr must be a positive number, got 0.0"),
        ({"lr": float("nan")}, "lr must be a positive number, got nan"),
        ({"lr": float("inf")}, "lr must be a positive number, got inf"),
        ({"seed": -1}, "the seed must be from 0 to"),
        ({"seed": 2**32}, "the seed must be from 0 to"),
        ({"device": "quux"}, "torch cannot compute on the device 'quux' here; it can on cpu"),
        ({"device": "meta"}, "torch cannot compute on the device 'meta' here; it can on cpu"),
        ({"batch_size": 64, "seq_len": 1000}, "it has 8000 characters, and 71112 are needed for one window of batch_size 64"),
        ({"resume": True}, "there is nothing to resume without a path"),
    ],
)
def test_settings_out_of_range_are_refused(given, message, make_char):
    with pytest.raises(SettingsError, match=message):
        train(make_char(), **given)


def test_settings_that_a_model_does_not_have_are_refused(make):
    with pytest.raises(SettingsError, match="^emb_rnn has no batch_size, its data fix it; it has epochs, lr$"):
        train(make("emb_rnn"), batch_size=2)


def test_nothing_to_resume(make, path):
    with pytest.raises(CheckpointError, match=r"^no interrupted training at .*model\.resume\.safetensors; begin one without"):
        train(make("emb_rnn"), path=path, resume=True)


def test_a_training_of_another_model_is_refused(make, interrupted):
    with pytest.raises(CheckpointError, match="is a training of 'char_lstm', not of 'emb_rnn'; give the one that fits"):
        train(make("emb_rnn"), path=interrupted, resume=True)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lr": 0.5}, r"with lr 0\.005, not 0\.5; give the same, or begin anew"),
        ({"epochs": 9, "seq_len": 5}, "with epochs 4, not 9; seq_len 16, not 5;"),
        ({"seed": 1}, "with seed 0, not 1;"),
        ({"hidden": 32}, "with hidden 16, not 32;"),
        ({"text": "other text " * 500}, "with vocabulary .*; a text of SHA-256 [0-9a-f]{12}, not [0-9a-f]{12};"),
    ],
)
def test_other_settings_are_refused(given, message, make_char, interrupted):
    sizes = {name: given.pop(name) for name in ("hidden", "text") if name in given}
    before = {path: path.read_bytes() for path in interrupted.parent.iterdir()}
    with pytest.raises(CheckpointError, match=message):
        train(make_char(**sizes), **given, path=interrupted, resume=True)
    assert {path: path.read_bytes() for path in interrupted.parent.iterdir()} == before


def changed(path, **tensors):
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    kept = {name: tensor for name, tensor in (safetensors.torch.load_file(path) | tensors).items() if tensor is not None}
    path.write_bytes(safetensors.torch.save(kept, metadata))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"module.fc.bias": torch.tensor([float("nan")])}, r"module\.fc\.bias holds NaN or infinity; begin anew"),
        ({"module.fc.bias": torch.zeros(3)}, "the training does not fit char_lstm"),
        ({"module.fc.bias": None}, "the training does not fit char_lstm"),
        ({"random.cpu": None}, "the training does not fit char_lstm"),
        ({"random.cpu": torch.zeros(3)}, "the training does not fit char_lstm"),
    ],
    ids=["not finite", "another shape", "missing", "no random state", "wrong random state"],
)
def test_a_damaged_training_is_refused(tensors, message, make_char, interrupted):
    changed(resume_path(interrupted), **tensors)
    with pytest.raises(CheckpointError, match=message):
        train(make_char(), path=interrupted, resume=True)


def test_a_checkpoint_is_no_interrupted_training(make, path):
    train(make("emb_rnn"), epochs=1, path=path)
    path.rename(resume_path(path))
    with pytest.raises(CheckpointError, match="is not an interrupted training"):
        train(make("emb_rnn"), path=path, resume=True)


def test_an_interrupted_training_is_no_checkpoint(interrupted):
    with pytest.raises(CheckpointError, match="is not a checkpoint made by `rnnx train`"):
        load_checkpoint(resume_path(interrupted))
