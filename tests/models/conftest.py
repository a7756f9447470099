import pytest

from rnnx_models import get_recipe
from rnnx_models._corpus import default_text, vocabulary_of


@pytest.fixture
def make():
    """A recipe by name, with sizes of its config."""

    def make(name, *text, **sizes):
        recipe_type = get_recipe(name)
        return recipe_type(recipe_type.config_type(**sizes), *text)

    return make


@pytest.fixture(scope="session")
def prose():
    """A small corpus: the beginning of the text that the character models learn from by default."""
    return default_text()[:40_000]


@pytest.fixture
def make_char(make, prose):
    """A character model small enough to be trained in seconds."""

    def make_char(name="char_lstm", text=prose, **sizes):
        sizes = {"embedding": 16, "hidden": 64, "layers": 1, "dropout": 0.1} | sizes
        return make(name, text, vocabulary=vocabulary_of(text), **sizes)

    return make_char


@pytest.fixture
def make_small(make_char, prose):
    """One that is trained in less than a second."""
    return lambda name="char_lstm", text=prose[:8000], **sizes: make_char(name, text, **({"hidden": 16} | sizes))


@pytest.fixture
def path(tmp_path):
    """Of a checkpoint."""
    return tmp_path / "model.safetensors"


@pytest.fixture
def stop_at():
    """An `on_progress` that presses Ctrl-C when an epoch's step is done."""

    def stop_at(epoch, step=None):
        def on_progress(here):
            if (here.epoch, here.step) == (epoch, here.steps if step is None else step):
                raise KeyboardInterrupt

        return on_progress

    return stop_at
