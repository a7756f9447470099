"""What a pool is given: inputs of many streams by key, without a batch axis, checked and put side by side."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from rnnx_runtime._errors import InputError
from rnnx_runtime._graph import Graph
from rnnx_runtime._inputs import Chunk, by_name

_PLAIN: Final = {int, float, np.int32, np.int64, np.float32, np.float64, np.ndarray}  # what numpy stacks as it stands


def one_step(graph: Graph, key: Hashable, x: Any) -> Chunk:
    """One stream's step as a chunk of one row.

    Raises:
        InputError: it breaks the contract; the message says whose.
    """
    return _one(graph, key, x, ())


def own_step(graph: Graph, key: Hashable, x: Any) -> Any:
    """A copy of one stream's step, checked, for a queue: what the caller does with `x` afterwards does not matter.

    Raises:
        InputError: it breaks the contract; the message says whose; or `key` cannot be one.
    """
    try:
        hash(key)
    except TypeError:
        raise InputError(f"a stream's key must be hashable, got {type(key).__name__}") from None
    chunk = one_step(graph, key, x)
    owned = {
        name: (array[0, 0] if graph.inputs[name].layout.has_time else array[0]).copy() for name, array in chunk.arrays.items()
    }
    return next(iter(owned.values())) if len(owned) == 1 else owned


def one_chunk(graph: Graph, key: Hashable, chunk: Any) -> Chunk:
    """One stream's chunk, with a batch axis of 1.

    Raises:
        InputError: it breaks the contract; the message says whose.
    """
    return _one(graph, key, chunk, ("T",))


def _one(graph: Graph, key: Hashable, value: Any, time: tuple[str, ...]) -> Chunk:
    try:
        arrays = by_name(graph.inputs, value)
        for name, array in arrays.items():
            layout = graph.inputs[name].layout
            axes = time if layout.has_time else ()
            if array.ndim != len(axes) + len(layout.inner) or array.shape[len(axes) :] != layout.inner:
                wanted = ", ".join(map(str, (*axes, *layout.inner)))
                raise InputError(f"{name}: expected the shape ({wanted}), without a batch axis, got {array.shape}")
        rows = {name: array[None] for name, array in arrays.items()}
        return graph.check_chunk(rows) if time else graph.check_step(rows)
    except InputError as error:
        raise InputError(f"stream {key!r}: {error}") from None


def stacked_steps(graph: Graph, xs: Any) -> tuple[list[Hashable], Chunk]:
    """The steps of several streams as one batch.

    Raises:
        InputError: one breaks the contract; the message says whose.
    """
    items = by_key(xs)
    keys, values = list(xs), list(xs.values())
    if graph.manifest.fixed_batch is None:  # else they go into the graph one by one
        columns = _columns(graph, values)
        if columns is not None and all(map(_stackable, columns.values())):
            try:
                stacked = {name: np.array(column) for name, column in columns.items()}
                return keys, graph.check_step(stacked if len(stacked) > 1 else next(iter(stacked.values())))
            except ValueError:  # InputError is one
                pass
    chunks = [one_step(graph, key, x) for key, x in items]
    return keys, side_by_side(chunks) if chunks else Chunk({}, 0, 1)


def _columns(graph: Graph, values: list[Any]) -> dict[str, list[Any]] | None:
    """What the streams are given, by input; None where one lacks some."""
    if len(graph.inputs) == 1:
        return dict.fromkeys(graph.inputs, values)
    if all(type(value) is dict and value.keys() == graph.inputs.keys() for value in values):
        return {name: [value[name] for value in values] for name in graph.inputs}
    return None


def _stackable(values: list[Any]) -> bool:
    """Whether numpy makes one array of them that is right, or fails."""
    kinds = set(map(type, values))
    if not kinds <= _PLAIN:
        return False
    return np.ndarray not in kinds or {value.dtype.kind for value in values if isinstance(value, np.ndarray)} <= {
        "f",
        "i",
        "u",
    }


def by_key(xs: Any) -> list[tuple[Hashable, Any]]:
    """The streams and what each is given.

    Raises:
        InputError: it is no mapping.
    """
    if not isinstance(xs, Mapping):
        raise InputError(f"a pool is given a mapping of streams to their inputs, got {type(xs).__name__}")
    return list(xs.items())


def side_by_side(chunks: Sequence[Chunk]) -> Chunk:
    """Chunks of one row each, and of the same length, as one."""
    arrays = {name: np.concatenate([chunk.arrays[name] for chunk in chunks]) for name in chunks[0].arrays}
    return Chunk(arrays, len(chunks), chunks[0].steps)
