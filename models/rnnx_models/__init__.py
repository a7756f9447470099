"""Recurrent models, one file each: config, module, recipe.

    recipe_type = get_recipe("emb_rnn")
    trained = train(recipe_type(recipe_type.config_type()), seed=0, path="artifacts/emb_rnn.safetensors")

`MODELS` lists them without importing torch.
"""

from rnnx_models._registry import MODELS, ModelNotFoundError, get_recipe

__all__ = ["MODELS", "ModelNotFoundError", "get_recipe"]
