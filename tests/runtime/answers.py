"""Inputs of any model, and its answers in one form: batch-first, by name, in steps and chunks that can be joined."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnnx_runtime import Model, State

Answer = dict[str, NDArray[Any]]

# Steps and chunks take different paths through ONNX Runtime's matrix products: the last bits may differ.
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def sample(model: Model, batch: int, steps: int, seed: int = 0) -> NDArray[Any]:
    """Random tokens `(B, T)` or values `(B, T, F)`."""
    generator = np.random.default_rng(seed)
    (spec,) = model.manifest.inputs
    if spec.role == "tokens":
        return generator.integers(spec.vocabulary_size, size=(batch, steps), dtype=np.int64)
    return generator.standard_normal((batch, steps, spec.shape[-1]), dtype=np.float32)


def named(model: Model, answer: Any) -> Answer:
    return answer if isinstance(answer, dict) else {model.manifest.outputs[0].name: answer}


def per_step(model: Model) -> set[str]:
    """The outputs that have a value per step; the others answer a whole chunk."""
    return {spec.name for spec in model.manifest.outputs if any("seq_len" in str(size) for size in spec.shape)}


def joined(model: Model, chunks: Sequence[Any]) -> Answer:
    parts = [named(model, chunk) for chunk in chunks]
    return {
        name: np.concatenate([part[name] for part in parts], axis=1) if name in per_step(model) else parts[-1][name]
        for name in parts[0]
    }


def stacked(model: Model, steps: Sequence[Any]) -> Answer:
    parts = [named(model, step) for step in steps]
    return {
        name: np.stack([part[name] for part in parts], axis=1) if name in per_step(model) else parts[-1][name]
        for name in parts[0]
    }


def assert_close(found: Answer, wanted: Answer) -> None:
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        assert found[name].shape == array.shape
        assert found[name].dtype == array.dtype
        np.testing.assert_allclose(found[name], array, **CLOSE, err_msg=name)


def assert_same_bits(found: Answer, wanted: Answer) -> None:
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        assert found[name].shape == array.shape
        assert found[name].tobytes() == array.tobytes()


def assert_states_close(found: State, wanted: State) -> None:
    assert (found.digest, found.batch) == (wanted.digest, wanted.batch)
    assert_close(dict(found), dict(wanted))
