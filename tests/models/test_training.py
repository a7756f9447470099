"""Training: the same seed gives the same bytes, interrupted or not; what goes wrong leaves the last good checkpoint."""

import json
import signal
from contextlib import nullcontext

import pytest
import safetensors.torch
import torch

from rnnx_models._recipe import Score
from rnnx_models._resume import resume_path, save_training
from rnnx_models.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
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


def test_a_second_ctrl_c_loses_nothing(make_char, path, monkeypatch):
    said = []

    def press(here):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    def save(*arguments):
        signal.raise_signal(signal.SIGINT)
        save_training(*arguments)

    monkeypatch.setattr("rnnx_models.train.save_training", save)
    with pytest.raises(TrainingInterruptedError):
        train(make_char(), **SHORT, path=path, on_progress=press, on_stop=lambda: said.append("stopping"))
    assert said == ["stopping"] * 3
    monkeypatch.undo()
    train(make_char(), path=path, resume=True)


def test_ctrl_c_does_not_break_off_the_last_saving(make, path, monkeypatch):
    def save(*arguments):
        signal.raise_signal(signal.SIGINT)
        save_checkpoint(*arguments)

    monkeypatch.setattr("rnnx_models.train.save_checkpoint", save)
    train(make("emb_rnn"), epochs=1, path=path)
    assert path.exists()


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
    assert (trained.header.best_epoch, trained.header.score) == (2, 1.0)
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
    monkeypatch.setattr(recipe, "loss", Diverging(recipe.loss, 5, value))
    message = (
        rf"^the loss is {value}, in epoch 3 after 0 of 1 steps; lower the learning rate: give a smaller --lr than 0\.05\. "
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


@pytest.mark.parametrize("name", ["sin_lstm", "caption_rnn", "emb_rnn", "seq_rnn"])
def test_a_learning_rate_that_is_far_too_high_is_found_out_after_an_epoch(name, make, path, monkeypatch):
    monkeypatch.setattr("rnnx_models.caption_rnn._IMAGES", 160)
    train(make(name), epochs=1, path=path)
    before = path.read_bytes()
    message = (
        r"^the loss is \S+e\+\d+, and was \S+ before the first step, in epoch 1 .*; lower .* smaller --lr than 1e\+06\. Noth"
    )
    with pytest.raises(TrainingError, match=message):
        train(make(name), lr=1e6, path=path)
    assert path.read_bytes() == before
    assert not resume_path(path).exists()


def test_a_loss_that_is_ten_times_that_of_the_untrained_module_is_too_high(make, monkeypatch):
    for factor, stops in ((9.9, False), (10.1, True)):
        recipe = make("emb_rnn")
        losses = iter([1.0, factor] * 2)
        monkeypatch.setattr(recipe, "loss", lambda module, *_: (module.fc.bias.sum() * 0 + next(losses), ()))  # noqa: B023
        with pytest.raises(TrainingError, match="the loss is 10.1, and was 1 before") if stops else nullcontext():
            train(recipe, epochs=1)


def test_what_is_not_finite_is_named(make, monkeypatch):
    recipe = make("emb_rnn")
    monkeypatch.setattr(recipe, "score", lambda module: Score(float("nan"), "of the answer right", False))
    with pytest.raises(TrainingError, match="^the score is nan of the answer right, in epoch 1"):
        train(recipe)
    recipe = make("emb_rnn")
    monkeypatch.setattr(recipe, "schedule", lambda done: float("inf"))
    with pytest.raises(TrainingError, match=r"^the weight \S+ is not finite, in epoch 1"):
        train(recipe)


@pytest.mark.parametrize("when", ["build", "loss"])
@pytest.mark.parametrize(
    "error", [RuntimeError("not\nenough memory"), MemoryError(), OverflowError("too large"), ValueError("too large")]
)
def test_sizes_that_do_not_fit_the_machine_are_one_line(when, error, make, monkeypatch):
    recipe = make("emb_rnn")

    def fail(*arguments):
        raise error

    monkeypatch.setattr(recipe, when, fail)
    with pytest.raises(SettingsError, match=r"^emb_rnn cannot be trained this way: .+; give smaller sizes$"):
        train(recipe)


def test_the_mean_loss_of_an_epoch_is_the_same_after_resuming(make_char, stop_at, path):
    whole, resumed = [], []
    train(make_char(), **SHORT, on_progress=whole.append)
    with pytest.raises(TrainingInterruptedError):
        train(make_char(), **SHORT, path=path, on_progress=stop_at(2, 30))
    train(make_char(), path=path, resume=True, on_progress=resumed.append)
    assert resumed == whole[-len(resumed) :]


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
        ({"epochs": 0}, "epochs must be from 1 to 1000000, got 0"),
        ({"batch_size": -3}, "batch_size must be from 1 to 65536, got -3"),
        ({"seq_len": 0}, "seq_len must be from 1 to 65536, got 0"),
        ({"batch_size": 10**11}, "batch_size must be from 1 to 65536, got 100000000000"),
        ({"lr": 0.0}, "lr must be above 0 and at most 1e\\+06, got 0.0"),
        ({"lr": 1e39}, "lr must be above 0 and at most 1e\\+06, got 1e\\+39"),
        ({"lr": float("nan")}, "lr must be above 0 and at most 1e\\+06, got nan"),
        ({"lr": float("inf")}, "lr must be above 0 and at most 1e\\+06, got inf"),
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
        ({"lr": 0.5}, r"with lr 0\.005, not 0\.5; give the same, or delete that file to begin anew"),
        ({"epochs": 9, "seq_len": 5}, "with epochs 4, not 9; seq_len 16, not 5;"),
        ({"seed": 1}, "with seed 0, not 1;"),
        ({"hidden": 32}, "with hidden 16, not 32;"),
        (
            {"text": "other text " * 500},
            "learns from another text, of SHA-256 [0-9a-f]{12}…, not [0-9a-f]{12}…; give the text .*: --text FILE",
        ),
    ],
)
def test_other_settings_are_refused(given, message, make_char, interrupted):
    sizes = {name: given.pop(name) for name in ("hidden", "text") if name in given}
    before = {path: path.read_bytes() for path in interrupted.parent.iterdir()}
    with pytest.raises(CheckpointError, match=message):
        train(make_char(**sizes), **given, path=interrupted, resume=True)
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
        ({"module.fc.bias": torch.tensor([float("nan")])}, r"module\.fc\.bias holds NaN or infinity; train the model again"),
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
def test_a_damaged_training_is_refused(tensors, message, make_char, interrupted):
    changed(resume_path(interrupted), **tensors)
    with pytest.raises(CheckpointError, match=message):
        train(make_char(), path=interrupted, resume=True)


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
def test_a_damaged_header_is_refused(field, message, make_char, interrupted):
    change_header(resume_path(interrupted), **field)
    with pytest.raises(CheckpointError, match=rf"model\.safetensors\.resume[: ].*{message}"):
        train(make_char(), path=interrupted, resume=True)


def test_a_plain_training_does_not_delete_an_interrupted_one(make, interrupted):
    before = resume_path(interrupted).read_bytes()
    message = r"resume is an interrupted training; go on with it \(--resume\), or delete that file to begin anew$"
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
