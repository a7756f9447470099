"""Recurrent models, one file each: config, module, recipe.

    recipe = get_recipe("emb_rnn")
    checkpoint = train(recipe, recipe.config(), seed=0)

`MODELS` lists them without importing torch.
"""

from rnnx_models._registry import MODELS, ModelNotFoundError, get_recipe

__all__ = ["MODELS", "ModelNotFoundError", "get_recipe"]
