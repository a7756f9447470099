"""Every model of the registry is trained by its recipe, exported, and served by the runtime to its target."""

import math

import numpy as np
import pytest
import torch

import rnnx
from rnnx_models import MODELS, ModelNotFoundError, caption_rnn, get_recipe, seq_rnn, sin_lstm
from rnnx_models._corpus import split
from rnnx_models.train import train
from rnnx_runtime import load

HELLO = ("rnn_cell", "rnn", "emb_rnn", "lstm_cell", "gru_cell", "gru")
CHAR = ("char_rnn", "char_lstm", "char_gru")
EXPORTED = tuple(MODELS)  # those that `rnnx.export` can take

# Where the target takes minutes: a smaller training, and the bar for it.
REDUCED = dict.fromkeys(CHAR, 3.3) | {"caption_rnn": 0.8}
REDUCED_SETTINGS = {name: {"epochs": 6, "batch_size": 16, "seq_len": 16, "lr": 0.01} for name in CHAR}
REDUCED_SETTINGS["caption_rnn"] = {"epochs": 8}


@pytest.fixture(scope="module")
def trained():
    """Recipe, header and module by name; each is trained once."""
    return {}


@pytest.fixture
def model(request, trained, make, make_char):
    name = request.param
    if name not in trained:
        recipe = make_char(name) if name in CHAR else make(name)
        result = train(recipe, **REDUCED_SETTINGS.get(name, {}))
        module = recipe.build()
        module.load_state_dict(result.weights)
        trained[name] = recipe, result.header, module.eval()
    return trained[name]


@pytest.mark.parametrize("model", MODELS, indirect=True)
def test_a_model_reaches_its_target(model):
    recipe, header, _ = model
    if recipe.name == "caption_rnn":
        assert header.score >= REDUCED[recipe.name]
    elif recipe.name in CHAR:
        assert header.score <= REDUCED[recipe.name]
    else:
        assert header.reached, f"{header.score} {header.unit}"


@pytest.mark.parametrize("model", EXPORTED, indirect=True)
def test_a_model_is_served_to_its_target(model, tmp_path):
    recipe, header, module = model
    done = rnnx.export(
        module, recipe.example(), tmp_path / "model.onnx", codec=recipe.codec(), sampling=recipe.sampling(), name=recipe.name
    )
    SERVED.get(recipe.name, says_ohlol)(load(done.path), recipe, header)


def says_ohlol(served, recipe, header):
    assert served.infer("hello") == "ohlol"


def labels_all_rows(served, recipe, header):
    words, labels = seq_rnn.table()
    answer = served.infer(words.transpose(0, 1).numpy())  # (B=6, T=3, 1)
    assert ((answer[:, -1, 0] > 0) == labels.bool().numpy()).all()


def follows_ten_periods(served, recipe, header):
    sines, cosines = (wave.numpy() for wave in sin_lstm.waves(torch.tensor([0.3])))  # (B=1, T, 1)
    stream = served.stream()
    said = np.concatenate([stream.feed(chunk) for chunk in np.split(sines, sin_lstm.PERIODS, axis=1)], axis=1)
    assert np.square(said - cosines).mean() <= sin_lstm.TARGET


def spells_digits(served, recipe, header):
    generator = torch.Generator().manual_seed(5)
    digits = list(range(10)) * 20
    images = torch.stack([caption_rnn.digit_image(digit, generator) for digit in digits])[:, None].numpy()
    state = served.initial_state(image=images)
    tokens, said = np.zeros(len(digits), np.int64), []
    for _ in range(caption_rnn.LONGEST):
        logits, state = served.step(tokens, state)
        tokens = logits.argmax(axis=-1)
        said.append(tokens)
    words = [recipe.codec().decode(row).partition(caption_rnn.END)[0] for row in np.stack(said, axis=1)]
    right = sum(word == caption_rnn.WORDS[digit] for word, digit in zip(words, digits, strict=True))
    assert right / len(digits) >= REDUCED["caption_rnn"]


def spends_as_few_bits(served, recipe, header):
    held_out = split(served.encode(recipe._corpus))[1]
    logits = served.infer(held_out[None, :-1])[0].astype(np.float64)  # (T, V)
    spent = np.log(np.exp(logits).sum(axis=-1)) - logits[np.arange(len(logits)), held_out[1:]]
    assert spent.mean() / math.log(2) <= REDUCED[recipe.name]
    text = "".join(served.stream().generate("The ", 50, seed=0))
    assert len(text) == 50


SERVED = {
    "seq_rnn": labels_all_rows,
    "sin_lstm": follows_ten_periods,
    "caption_rnn": spells_digits,
    **dict.fromkeys(CHAR, spends_as_few_bits),
}


@pytest.mark.parametrize("seed", range(1, 5))
@pytest.mark.parametrize("name", [*HELLO, "seq_rnn"])
def test_a_small_task_is_learned_from_any_seed(name, seed, make):
    assert train(make(name), seed=seed).header.reached


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["caption_rnn", "sin_lstm"])
def test_a_larger_task_is_learned_from_any_seed(name, seed, make):
    assert train(make(name), seed=seed).header.reached


@pytest.mark.slow
@pytest.mark.parametrize("name", CHAR)
def test_a_character_model_reaches_its_target_on_the_default_text(name, make):
    header = train(make(name)).header
    assert header.reached, f"{header.score} {header.unit}"


def test_training_leaves_the_global_random_state_alone(make):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    train(make("emb_rnn"), epochs=1)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("name", MODELS)
def test_the_summary_names_the_model_that_the_file_defines(name):
    recipe_type = get_recipe(name)
    assert recipe_type.name == name
    assert recipe_type.__doc__


def test_a_misspelt_name_suggests_the_nearest():
    with pytest.raises(ModelNotFoundError, match=r"^no model is called 'emb_rn'; did you mean 'emb_rnn'\?$"):
        get_recipe("emb_rn")
    with pytest.raises(ModelNotFoundError, match=r"^no model is called 'xyzzy'; there are rnn_cell, rnn, emb_rnn"):
        get_recipe("xyzzy")
