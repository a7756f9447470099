"""Training: what is kept, what is refused, and what goes wrong leaves the last good checkpoint."""

from contextlib import nullcontext

import pytest

from rnnx_models._recipe import Score
from rnnx_models._resume import resume_path
from rnnx_models.checkpoint import load_checkpoint
from rnnx_models.train import SettingsError, TrainingError, train

SHORT = {"epochs": 4, "batch_size": 8, "seq_len": 16}


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


def test_progress_counts_steps_and_epochs(make_small):
    seen = []
    trained = train(make_small(), **SHORT, on_progress=seen.append)
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
    monkeypatch.setattr("rnnx_models.train._SAVE_EVERY", 0.0)  # a training to be resumed is there when it goes wrong
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
def test_settings_out_of_range_are_refused(given, message, make_small):
    with pytest.raises(SettingsError, match=message):
        train(make_small(), **given)


def test_settings_that_a_model_does_not_have_are_refused(make):
    with pytest.raises(SettingsError, match="^emb_rnn has no batch_size, its data fix it; it has epochs, lr$"):
        train(make("emb_rnn"), batch_size=2)
