"""Every model of the registry is trained by its recipe, exported, and served by the runtime to its target."""

import pytest
import torch

import rnnx
from rnnx_models import MODELS, ModelNotFoundError, get_recipe
from rnnx_models.train import TrainingError, train
from rnnx_runtime import load


def trained(name, **options):
    recipe_type = get_recipe(name)
    recipe = recipe_type(recipe_type.config_type())
    header, weights = train(recipe, **options)
    module = recipe.build()
    module.load_state_dict(weights)
    return recipe, header, module.eval()


@pytest.mark.parametrize("name", MODELS)
def test_a_model_reaches_its_target_and_is_served_to_it(name, tmp_path):
    recipe, header, module = trained(name)
    assert header.reached, f"{name}: {header.score} {header.unit}"
    done = rnnx.export(module, recipe.example(), tmp_path / "model.onnx", codec=recipe.codec(), name=name)
    assert load(done.path).infer("hello") == "ohlol"


@pytest.mark.parametrize("seed", range(1, 9))
def test_emb_rnn_learns_from_any_seed(seed):
    assert trained("emb_rnn", seed=seed)[1].reached


def test_emb_rnn_takes_any_batch_and_length():
    module = trained("emb_rnn", epochs=1)[2]
    assert module(torch.zeros(3, 7, dtype=torch.int64)).shape == (21, 4)


def test_training_leaves_the_global_random_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    recipe_type = get_recipe("emb_rnn")
    train(recipe_type(recipe_type.config_type()), epochs=1)
    assert torch.equal(torch.rand(1), expected)


def test_a_loss_that_is_not_finite_stops_the_training(monkeypatch):
    recipe_type = get_recipe("emb_rnn")
    monkeypatch.setattr(recipe_type, "losses", lambda self, module: iter([torch.tensor(float("nan"))]))
    with pytest.raises(TrainingError, match="the loss is nan in epoch 1; lower the learning rate"):
        trained("emb_rnn")


def test_a_misspelt_name_suggests_the_nearest():
    with pytest.raises(ModelNotFoundError, match=r"^no model is called 'emb_rn'; did you mean 'emb_rnn'\?$"):
        get_recipe("emb_rn")
    with pytest.raises(ModelNotFoundError, match=r"^no model is called 'xyzzy'; there are emb_rnn"):
        get_recipe("xyzzy")
