"""What two artifacts promise, and whom a change of it breaks."""

from collections.abc import Iterator, Sequence
from itertools import count

from rnnx._diff.change import NONE, Audience, Break, Change, change, differing, paired, sizes
from rnnx_runtime.artifact import (
    CharCodec,
    Codec,
    Computed,
    Constant,
    Dimension,
    Input,
    Manifest,
    Output,
    Sampling,
    ScalerCodec,
    StateSpec,
)


def contract_changes(a: Manifest, b: Manifest) -> tuple[Change, ...]:
    """Every promise of a that b does not make in the same way, tensors first."""
    found = [
        *(_input("input", one, two, a, b) for one, two in paired(a.inputs, b.inputs)),
        *(_input("condition", one, two, a, b) for one, two in paired(a.conditions, b.conditions)),
        *(_output(one, two, a, b) for one, two in paired(a.outputs, b.outputs)),
        *(_state(one, two) for one, two in paired(a.states, b.states)),
        _codec(a.codec, b.codec),
        *_steps(a, b),
        *_sizes_taken(a, b),
        _golden(a, b),
        change("sampling", (_of_sampling(a.sampling), _of_sampling(b.sampling))),
        change("precision", (a.precision, b.precision)),
        change("lowering", (a.lowering, b.lowering)),
        change("name", (a.name, b.name)),
    ]
    return tuple(one for one in found if one is not None)


def inner_sizes(shape: tuple[Dimension, ...]) -> tuple[int, ...]:
    """The sizes of one row at one step: without batch, time, and axes of size 1 in front of these."""
    first = next((axis for axis, size in enumerate(shape) if isinstance(size, str)), 0)
    return tuple(size for axis, size in enumerate(shape) if isinstance(size, int) and not (size == 1 and axis < first))


def _input(kind: str, old: Input | None, new: Input | None, a: Manifest, b: Manifest) -> Change | None:
    if old is None or new is None:
        because = "b must be given it" if old is None else "b does not take it"
        return change(f"{kind} {_name(old, new)}", differing(_of_tensor(old), _of_tensor(new)), ("callers", because))
    fewer = new.role == "tokens" and (new.vocabulary_size or 0) < (old.vocabulary_size or 0)
    converted = old.dtype.rstrip("3264") == new.dtype.rstrip("3264")  # by the runtime: int32 to int64, float64 to float32
    audience: Audience = "plain ONNX callers" if converted else "callers"
    return change(
        f"{kind} {old.name}",
        differing(_of_tensor(old), _of_tensor(new)),
        ("callers", f"it is called {new.name}") if old.name != new.name else None,
        (audience, f"b takes {new.dtype}") if old.dtype != new.dtype else None,
        _other_shape(old, new, a, b),
        ("callers", f"b takes {new.role}") if old.role != new.role else None,
        ("callers", f"tokens from {new.vocabulary_size} on are refused") if fewer else None,
    )


def _output(old: Output | None, new: Output | None, a: Manifest, b: Manifest) -> Change | None:
    if old is None or new is None:
        mapping = old is None and len(a.outputs) == 1  # one answer is an array, several are a mapping by name
        because = "" if old is None and not mapping else "an answer is a mapping" if mapping else "b does not give it"
        name = f"output {_name(old, new)}"
        return change(name, differing(_of_tensor(old), _of_tensor(new)), ("callers", because) if because else None)
    audience: Audience = "callers" if len(a.outputs) > 1 else "plain ONNX callers"
    return change(
        f"output {old.name}",
        differing(_of_tensor(old), _of_tensor(new)),
        (audience, f"it is called {new.name}") if old.name != new.name else None,
        ("callers", f"it is {new.dtype}") if old.dtype != new.dtype else None,
        _other_shape(old, new, a, b),
        ("callers", "b does not answer in text") if old.role == "logits" != new.role else None,
    )


def _other_shape(old: Input | Output, new: Input | Output, a: Manifest, b: Manifest) -> Break:
    """Callers of the runtime see batch, then time, then the rest, whatever the layout of the graph."""
    if a.has_time(old) != b.has_time(new):
        return "callers", "it has a value per step" if b.has_time(new) else "it has no value per step"
    if inner_sizes(old.shape) != inner_sizes(new.shape):
        return "callers", f"a step of it is {sizes(inner_sizes(new.shape))}"
    return None if old.shape == new.shape else ("plain ONNX callers", "it has another layout")


def _state(old: StateSpec | None, new: StateSpec | None) -> Change | None:
    if old is None or new is None:
        because = "a has no such state" if old is None else "b has no such state"
        return change(f"state {_name(old, new)}", differing(_of_state(old), _of_state(new)), ("stored states", because))
    fits = (old.dtype, old.shape) == (new.dtype, new.shape)
    return change(
        f"state {old.name}",
        differing(_of_state(old), _of_state(new)),
        ("stored states", f"it is called {new.name}") if old.name != new.name else None,
        None if fits else ("stored states", "b does not take them over"),
        ("plain ONNX callers", f"its tensors are {new.input} and {new.output}")
        if (old.input, old.output) != (new.input, new.output)
        else None,
    )


def _codec(old: Codec | None, new: Codec | None) -> Change | None:
    if old == new:
        return None
    broken = _broken_codec(old, new)
    words = _of_codec(old, new), _of_codec(new, old)
    return Change("codec", *words, {"callers": broken} if broken else {})


def _broken_codec(old: Codec | None, new: Codec | None) -> str:
    """Why what relied on the codec of a fails with that of b; empty where it does not."""
    if isinstance(old, ScalerCodec) and isinstance(new, ScalerCodec):
        return "values scaled without the codec are wrong"
    if isinstance(old, ScalerCodec) or isinstance(new, ScalerCodec):
        return "infer takes and gives values in other units"
    if old is None or new is None:
        return "b takes and gives numbers only" if old is not None else ""
    if type(old) is not type(new):
        return "text becomes other arrays"
    if not new.vocabulary.startswith(old.vocabulary):
        return "a token stands for another character"
    return "unknown characters are refused" if old.unknown != "error" and new.unknown == "error" else ""


def _steps(a: Manifest, b: Manifest) -> Iterator[Change | None]:
    stops = a.streamable and not b.streamable
    because: Break = ("callers", f"whole sequences only: {b.not_streamable_because}") if stops else None
    yield change("streamable", (_yes(a.streamable), _yes(b.streamable)), because)
    matter = [manifest.chunks_matter_because is not None for manifest in (a, b)]
    because = ("callers", f"where calls begin matters: {b.chunks_matter_because}") if matter == [False, True] else None
    yield change("chunks matter", [_yes(one) for one in matter], because)


def _sizes_taken(a: Manifest, b: Manifest) -> Iterator[Change | None]:
    rows = ["any" if manifest.fixed_batch is None else str(manifest.fixed_batch) for manifest in (a, b)]
    only: list[Break] = [
        ("callers", f"b takes a batch of {rows[1]} only"),
        ("stored states", "those of another batch do not fit"),
    ]
    yield change("batch", rows, *([] if rows[1] in ("any", rows[0]) else only))
    steps = ["one step" if manifest.one_step else "any number" for manifest in (a, b)]
    because: Break = ("plain ONNX callers", f"a call takes {steps[1]}") if steps[0] != steps[1] else None
    yield change("steps of a call", steps, because)
    added = [name for name in b.trusted if name not in a.trusted]
    because = ("callers", f"loading needs trust=True for {', '.join(added)}") if added else None
    yield change("trusted operators", [", ".join(manifest.trusted) or NONE for manifest in (a, b)], because)


def _golden(a: Manifest, b: Manifest) -> Change | None:
    """Whether there is anything that an artifact can be tested by."""
    steps = [all(0 not in array.shape for array in manifest.golden.inputs.values()) for manifest in (a, b)]
    because: Break = ("callers", "a self-test has nothing to run") if steps == [True, False] else None
    return change("golden trace", [_yes(one) for one in steps], because)


def _name(old: Input | Output | StateSpec | None, new: Input | Output | StateSpec | None) -> str:
    spec = old or new
    assert spec is not None
    return spec.name


def _of_tensor(spec: Input | Output | None) -> list[str]:
    if spec is None:
        return []
    below = f" below {spec.vocabulary_size}" if isinstance(spec, Input) and spec.vocabulary_size is not None else ""
    return [spec.name, spec.dtype, sizes(spec.shape), f"{spec.role}{below}"]


def _of_state(spec: StateSpec | None) -> list[str]:
    if spec is None:
        return []
    computed, given = isinstance(spec.init, Computed), isinstance(spec.init, Constant)
    start = "what is computed" if computed else "given values" if given else "zeros"
    return [spec.name, spec.dtype, sizes(spec.shape), f"starts with {start}", f"{spec.input} to {spec.output}"]


def _of_codec(codec: Codec | None, other: Codec | None) -> str:
    """Short, and from where it differs on."""
    if codec is None:
        return NONE
    if isinstance(codec, ScalerCodec):
        base = other if isinstance(other, ScalerCodec) else None
        sides = ("mean", "std", "output_mean", "output_std")
        numbers = {side: (getattr(codec, side), getattr(base, side, ())) for side in sides}
        return ", ".join(["scaler", *(f"{side} {_from(*pair)}" for side, pair in numbers.items() if pair[0] != pair[1])])
    vocabulary = "" if other is None or isinstance(other, ScalerCodec) else other.vocabulary
    kind = "char" if isinstance(codec, CharCodec) else "one-hot"
    shown = "" if codec.vocabulary == vocabulary else f" {_from(codec.vocabulary, vocabulary)}"
    unknown = f", unknown characters: {codec.unknown}" + (f" by {codec.replacement!r}" if codec.replacement else "")
    return f"{kind}, {len(codec.vocabulary)} symbols{shown}{unknown}"


def _from(mine: Sequence[object], other: Sequence[object]) -> str:
    """A few of a sequence, from the first that differs on."""
    pairs = zip(count(), mine, other)
    first = next((i for i, one, two in pairs if one != two), min(len(mine), len(other)))
    few = mine[first : first + 8]
    shown = repr(few) if isinstance(few, str) else ", ".join(map(str, few))
    return ("… " if first else "") + shown + (" …" if first + 8 < len(mine) else "")


def _of_sampling(sampling: Sampling | None) -> str:
    if sampling is None:
        return NONE
    temperature = str(sampling.temperature).removesuffix(".0")
    return f"{sampling.prompt!r}, {sampling.max_new_tokens} tokens at {temperature}, stop {list(sampling.stop)}"


def _yes(value: bool) -> str:
    return "yes" if value else "no"
