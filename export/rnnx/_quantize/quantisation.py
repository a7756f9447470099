"""`rnnx.quantize`: read, replace the weights, run both, seal, write. Needs no torch; nothing is written that became too much worse."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray

from rnnx._bench.timing import measure, on_one_core
from rnnx._describe import loss_in_words
from rnnx._errors import QuantizeError
from rnnx._lint import lint
from rnnx._lint.nodes import GATES
from rnnx._quantize.comparison import Comparison, compare_on, named
from rnnx._quantize.data import drawn, find_data, start_of
from rnnx._quantize.editor import SMALLEST_BLOCK, Grain, graphs_of
from rnnx._quantize.halves import halve_weights
from rnnx._quantize.quantized import CHUNK, Quantized, Speed
from rnnx._quantize.rewriting import quantise_weights
from rnnx_runtime import ArtifactError, Model, RnnxError, load
from rnnx_runtime.artifact import (
    INITIAL_KEY,
    MANIFEST_KEY,
    SEAL_KEY,
    Array,
    Artifact,
    GoldenTrace,
    Layout,
    LeftWeight,
    Manifest,
    Quantisation,
    QuantisedWeight,
    check_writable,
    golden_sha256,
    golden_start,
    open_artifact,
    seal,
    write_atomic,
)

LIMITS: Final = {8: 0.01, 4: 0.05, 16: 0.01}  # by which share a loss may rise, by the bits of a weight
_LARGEST_BLOCK: Final = 256
_PRECISIONS: Final = {8: "int8", 4: "int4", 16: "float16"}
_SECONDS: Final = 1.5  # of timing

Weights = tuple[tuple[QuantisedWeight, ...], tuple[LeftWeight, ...]]


def quantize(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str] | None = None,
    *,
    bits: int | None = None,
    block: int | None = None,
    fp16: bool = False,
    data: str | os.PathLike[str] | Mapping[str, Any] | NDArray[Any] | None = None,
    allow_loss: bool = False,
    trust: bool = False,
) -> Quantized:
    """Make an artifact with weights of fewer bits of an artifact; inputs, outputs, states and their names stay what they are.

    Recurrent layers, products with a stored matrix and tables are replaced; what is left is named, with the reason. Rows of a batch
    do not meet: a stream answers the same bits alone and in a pool. Both artifacts are run on the same data before anything is written.

    Args:
        source: the path of the artifact.
        path: of the new one; by default beside the other, `model.int8.onnx`.
        bits: of a weight, 8 or 4; 8 by default.
        block: how many weights share a scale, a power of two from 16 to 256; 32 by default. From 64 on, rows may differ a
            little with the number of rows beside them: the result says so.
        fp16: weights and computation in float16 instead, for execution providers that have it. The CPU gets slower by it.
        data: what the loss is measured on: the path of a text for a model that reads text; else an array, the path of a .npy or .csv,
            or a mapping or .npz of arrays by the names of inputs, and of outputs for targets. By default a text that the artifact
            writes itself, or random inputs.
        allow_loss: write it even where the loss rises by more than 1 % (4 bits: 5 %).
        trust: as `rnnx_runtime.load` takes it.

    Raises:
        QuantizeError: the artifact has few bits already, or nothing that could have; the arguments or the data do not fit; or it
            becomes worse than is allowed. Nothing was written.
        ArtifactError: it is no whole artifact.
        OSError: a file cannot be read or written. The artifact is written whole or not at all.
    """
    width, grain = _check_bits(bits, block, fp16)
    opened = open_artifact(source, trust=trust)
    target = Path(path) if path is not None else Path(source).with_suffix(f".{_PRECISIONS[width]}.onnx")
    _check_target(target, Path(source))
    _check_source(opened)
    replaced = _other_model(target, opened.manifest.name)
    proto = _without_manifest(opened)
    proto, (quantised, left) = _reduced(proto, width, grain)
    if opened.initial is not None:
        second = LeftWeight(name=INITIAL_KEY, bytes=len(opened.initial), because="this graph is run once per sequence")
        left = (*left, second)
    weights = quantised, left
    with load(opened.data, trust=trust) as before:
        found_data = find_data(before, data)
        draft = _manifest(opened, width, grain, weights, found_data.what, None)
        draft = msgspec.structs.replace(draft, golden=_golden(_sealed(proto, draft), trust))
        with _load(_sealed(proto, draft), trust) as after:
            try:
                comparison = compare_on(found_data, before, after)
            except RnnxError as error:
                raise QuantizeError(f"the data do not fit the artifact: {error}") from None
            manifest = _manifest(opened, width, grain, weights, found_data.what, comparison)
            done = manifest.quantisation
            assert done is not None
            if not done.rise <= done.limit and not allow_loss:
                raise QuantizeError(_too_much(done))
            golden = msgspec.structs.replace(draft.golden, sha256=golden_sha256(after))
            manifest = msgspec.structs.replace(manifest, golden=golden)
            speed = _speed(before, after)
    content = _sealed(proto, manifest)
    with _load(content, trust) as made:
        digest = made.digest
        if not made.selftest().passed:
            raise QuantizeError("two runs of the quantised artifact differ; nothing was written")
    linted = lint(content)
    if not linted.passed:
        raise QuantizeError(f"the quantised artifact has what fails in silence; nothing was written\n{linted}")
    write_atomic(target, content)
    return Quantized(
        path=target,
        source=os.fspath(source),
        manifest=manifest,
        comparison=comparison,
        speed=speed,
        digest=digest,
        size=len(content),
        operators=tuple(node.op_type for node in proto.graph.node),
        replaced=replaced,
    )


def _check_bits(bits: int | None, block: int | None, fp16: bool) -> tuple[int, Grain | None]:
    if fp16:
        if bits is not None or block is not None:
            raise QuantizeError("float16 has 16 bits and no blocks; give bits and block, or fp16, not both")
        return 16, None
    width, size = 8 if bits is None else bits, 32 if block is None else block
    if width not in (4, 8):
        raise QuantizeError(f"bits must be 8 or 4, got {width}")
    if not SMALLEST_BLOCK <= size <= _LARGEST_BLOCK or size & (size - 1):
        raise QuantizeError(f"block must be a power of two from {SMALLEST_BLOCK} to {_LARGEST_BLOCK}, got {size}")
    return width, Grain(width, size)


def _check_target(target: Path, source: Path) -> None:
    if target.suffix != ".onnx":
        raise QuantizeError(
            f"the artifact's name must end in .onnx, got {target.name!r}; for example artifacts/model.int8.onnx"
        )
    check_writable(target)
    if target.exists() and source.exists() and target.samefile(source):
        raise QuantizeError(f"{target} is the artifact that is quantised; give the new one another name, -o FILE.onnx")


def _other_model(target: Path, name: str) -> str | None:
    """The name of another model whose artifact is there.

    Raises:
        QuantizeError: something is there that is no artifact.
    """
    if not target.is_file():
        return None
    try:
        found = open_artifact(target, trust=True).manifest.name
    except ArtifactError:
        raise QuantizeError(
            f"{target} is there already, and is no artifact; give another name, -o FILE.onnx, or move it away"
        ) from None
    return None if found == name else found


def _check_source(opened: Artifact) -> None:
    manifest = opened.manifest
    few = [
        name for name in opened.graph.operators if "quantize" in name.lower() or "NBits" in name or name.endswith("Integer")
    ]
    if manifest.reduced or few:
        how = manifest.precision if manifest.reduced else ", ".join(few)
        raise QuantizeError(f"this artifact is quantised already ({how}); quantise the one that it was made of")
    if manifest.precision != "float32":
        raise QuantizeError(
            f"this artifact computes in {manifest.precision}, and fewer bits are for float32; export the module in float32 first"
        )


def _without_manifest(opened: Artifact) -> onnx.ModelProto:
    """The graph, with what else is in the file."""
    model = onnx.ModelProto()
    model.ParseFromString(opened.data)
    kept = [entry for entry in model.metadata_props if entry.key not in (MANIFEST_KEY, SEAL_KEY)]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    return model


def _reduced(model: onnx.ModelProto, width: int, grain: Grain | None) -> tuple[onnx.ModelProto, Weights]:
    """The model with fewer bits."""
    if grain is None:
        model, quantised, left = halve_weights(model)
    else:
        quantised, left = quantise_weights(model, grain)
    if not quantised:
        operators = sorted({node.op_type for graph in graphs_of(model.graph) for node in graph.node})
        why = (
            "; ".join(f"{one.name}: {one.because}" for one in left[:4])
            or f"it has {', '.join(operators)}, and no stored matrix"
        )
        raise QuantizeError(f"there is nothing to quantise in {width} bits: {why}")
    return model, (quantised, left)


def _manifest(
    opened: Artifact, width: int, grain: Grain | None, weights: Weights, data: str, found: Comparison | None
) -> Manifest:
    source = opened.manifest
    bits: Any = width
    quantisation = Quantisation(
        bits=bits,
        block=None if grain is None else grain.block,
        weights=weights[0],
        left=weights[1],
        source_sha256=opened.digest,
        source_bytes=len(opened.data),
        source_proven=source.parity is not None and source.parity.passed,
        data=data,
        unit="RMSE" if found is None else found.unit,
        loss_before=0.0 if found is None else found.before,
        loss_after=0.0 if found is None else found.after,
        rise=0.0 if found is None else found.rise,
        limit=LIMITS[width],
        one_step=0.0 if found is None else found.one_step,
        drift=0.0 if found is None else found.drift,
        drift_steps=0 if found is None else found.drift_steps,
        agreement=None if found is None else found.agreement,
    )
    precision: Any = _PRECISIONS[width]
    lowering, because = source.lowering, source.lowering_because
    if lowering == "adopted":
        because = f"before it was quantised: {because}"
    elif any(one.role.split(",")[0] in GATES for one in weights[0]) and grain is not None:
        lowering, because = "scan", "recurrent layers with weights of few bits; ONNX has no operator for them"
    return msgspec.structs.replace(
        source,
        precision=precision,
        quantisation=quantisation,
        parity=None,
        lowering=lowering,
        lowering_because=because,
    )


def _sealed(model: onnx.ModelProto, manifest: Manifest) -> bytes:
    described = onnx.ModelProto()
    described.CopyFrom(model)
    described.metadata_props.insert(0, onnx.StringStringEntryProto(key=MANIFEST_KEY, value=manifest.encode()))
    onnx.checker.check_model(described)
    return seal(described.SerializeToString(deterministic=True))


def _load(data: bytes, trust: bool) -> Model:
    try:
        return load(data, trust=trust)
    except RnnxError as error:
        raise QuantizeError(f"the artifact cannot be run with fewer bits: {error}") from error


def _golden(data: bytes, trust: bool) -> GoldenTrace:
    """The trace with what the quantised artifact itself answers to it."""
    with _load(data, trust) as model:
        manifest, golden, begin = model.manifest, model.manifest.golden, golden_start(model)
        if begin is None:
            return golden
        chunk, state = begin
        answer, ended = model.run(chunk, state) if manifest.streamable else model.run(chunk)
        steps = next((chunk[spec.name].shape[1] for spec in manifest.inputs if manifest.has_time(spec)), 1)
        outputs = {}
        for spec in manifest.outputs:
            array = named(model, answer)[spec.name]
            held = np.empty(golden.outputs[spec.name].shape, array.dtype)
            Layout(spec.shape, one_step=manifest.one_step).batch_first(held, state.batch, steps)[...] = array
            outputs[spec.name] = Array.of(held)
        following = {name: Array.of(np.asarray(array)) for name, array in ended.items()}
        return msgspec.structs.replace(golden, outputs=outputs, next_states=following, sha256="")


def _speed(before: Model, after: Model) -> tuple[Speed, ...]:
    """A step and a chunk of one row of both, by turns; of what cannot be stepped, a sequence."""
    rows, generator = before.manifest.fixed_batch or 1, np.random.default_rng(4)
    timed = {spec.name for spec in before.manifest.inputs if before.manifest.has_time(spec)}
    chunk = drawn(before, rows, CHUNK, generator)
    step = {name: array[:, 0] if name in timed else array for name, array in chunk.items()}
    only = next(iter(chunk)) if len(chunk) == 1 else None
    calls: dict[str, Any] = {}
    for side, model in (("before", before), ("after", after)):
        if not model.manifest.streamable:
            calls[f"{side} {CHUNK}"] = lambda model=model: model.run(chunk)
            continue
        start = start_of(model, rows)
        one, many = model.stream(state=start), model.stream(state=start)
        x = step if only is None else step[only]
        calls[f"{side} 1"] = lambda one=one, x=x: one.step(x)
        calls[f"{side} {CHUNK}"] = lambda many=many: many.feed(chunk)
    with on_one_core():
        timings = measure(calls, _SECONDS)
    lengths = [1, CHUNK] if before.manifest.streamable else [CHUNK]
    return tuple(Speed(steps, timings[f"before {steps}"], timings[f"after {steps}"]) for steps in lengths)


def _too_much(done: Quantisation) -> str:
    finer = "leave --fp16 out, " if done.bits == 16 else "take --bits 8, " if done.bits == 4 else "take a smaller --block, "
    if done.bits == 8 and done.block == SMALLEST_BLOCK:
        finer = ""
    return (
        f"it becomes worse than is allowed, on {done.data}: {loss_in_words(done)}; nothing was written: {finer}judge it on --data of "
        "your own, or accept it with --allow-loss"
    )
