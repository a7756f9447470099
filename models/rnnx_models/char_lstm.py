"""Embedding → `nn.LSTM` × layers → Linear over the characters of any text.

Repaired from the notes, which answer five characters: the state is an argument and a result, so that a text can go on for ever.
"""

from typing import Final, final

from torch import nn

from rnnx_models._char import CharRecipe


@final
class CharLstmRecipe(CharRecipe):
    """See `CharRecipe`."""

    name = "char_lstm"
    layer = nn.LSTM
    bits = 2.15


RECIPE: Final = CharLstmRecipe
