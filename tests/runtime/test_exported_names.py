import pkgutil
from importlib.metadata import version
from types import ModuleType

import pytest

import rnnx_runtime
from rnnx_runtime import artifact


def _order(name):
    """Constants, classes, functions, each from A to Z: the order of ruff's RUF022."""
    return (not name.isupper(), not name[0].isupper(), name)


@pytest.mark.parametrize("module", [rnnx_runtime, artifact])
def test_all_is_sorted_and_complete(module):
    assert module.__all__ == sorted(set(module.__all__), key=_order)
    found = {name for name, value in vars(module).items() if not name.startswith("_") and not isinstance(value, ModuleType)}
    assert set(module.__all__) == found | set(getattr(module, "_MODULES", ()))  # these are imported when they are asked for
    assert all(hasattr(module, name) for name in module.__all__)


def test_the_public_names_are_these():
    assert set(rnnx_runtime.__all__) >= {"Model", "State", "Stream", "load", "RnnxError"}


def test_every_other_module_is_underscored():
    modules = {module.name for module in pkgutil.iter_modules(rnnx_runtime.__path__)}
    assert {name for name in modules if not name.startswith("_")} == {"artifact"}


def test_the_version_is_that_of_the_distribution():
    assert rnnx_runtime.__version__ == version("rnnx-runtime")
    with pytest.raises(AttributeError, match="^module 'rnnx_runtime' has no attribute 'Modle'$"):
        _ = rnnx_runtime.Modle
