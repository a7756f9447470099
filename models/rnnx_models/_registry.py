"""The registry: one line per model, of which the command line, the tests and the docs are made.

Naming a model here is all it takes to add one; its file is imported only when it is asked for.
"""

import difflib
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from rnnx_runtime import RnnxError

if TYPE_CHECKING:
    from rnnx_models._recipe import Recipe

# name, which is also the name of its file: what it is
MODELS: Final[dict[str, str]] = {
    "rnn_cell": "RNNCell stepped in a loop over one-hot rows: hello → ohlol",
    "rnn": "RNN over one-hot rows, its hidden states the logits: hello → ohlol",
    "emb_rnn": "Embedding → two-layer RNN → Linear: hello → ohlol",
    "seq_rnn": "multi-layer RNN → Linear: three words of three bits → a label",
    "sin_lstm": "LSTM → Linear with its state in and out: sine → cosine",
    "lstm_cell": "LSTMCell stepped in a loop over one-hot rows: hello → ohlol",
    "gru_cell": "GRUCell stepped in a loop over one-hot rows: hello → ohlol",
    "gru": "GRU over one-hot rows, its hidden states the logits: hello → ohlol",
    "caption_rnn": "CNN → initial state of an RNN that spells: image of a digit → its English word",
    "char_rnn": "Embedding → RNN × layers → Linear: the next character of any text",
    "char_lstm": "Embedding → LSTM × layers → Linear: the next character of any text",
    "char_gru": "Embedding → GRU × layers → Linear: the next character of any text",
}


class ModelNotFoundError(RnnxError, LookupError):
    """There is no model of that name."""

    def __init__(self, name: str) -> None:
        near = difflib.get_close_matches(name, MODELS, n=1, cutoff=0.4)
        remedy = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(MODELS)}"
        super().__init__(f"no model is called {name!r}; {remedy}")


def get_recipe(name: str) -> "type[Recipe[Any]]":
    """The recipe of a model, to be called with its config; imports torch.

    Raises:
        ModelNotFoundError: the registry has no such name; the message suggests the nearest.
    """
    if name not in MODELS:
        raise ModelNotFoundError(name)
    recipe: type[Recipe[Any]] = import_module(f"rnnx_models.{name}").RECIPE
    return recipe
