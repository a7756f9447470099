"""What is public is what `__all__` lists, sorted; every other module has an underscore."""

import importlib
import pkgutil

import pytest

PUBLIC = {"rnnx": set(), "rnnx_models": {"checkpoint", "train"}}


@pytest.mark.parametrize("package", PUBLIC)
def test_all_is_sorted_and_complete(package):
    module = importlib.import_module(package)
    assert sorted(module.__all__) == module.__all__
    assert all(getattr(module, name) is not None for name in module.__all__)


@pytest.mark.parametrize("package", PUBLIC)
def test_other_modules_are_private(package):
    from rnnx_models import MODELS

    found = {module.name for module in pkgutil.iter_modules(importlib.import_module(package).__path__)}
    public = {name for name in found if not name.startswith("_")}
    assert public == PUBLIC[package] | (set(MODELS) if package == "rnnx_models" else set())


def test_an_unknown_name_is_an_attribute_error():
    import rnnx

    with pytest.raises(AttributeError, match="module 'rnnx' has no attribute 'exprot'"):
        _ = rnnx.exprot
