"""The manifest of a file that is adopted."""

import hashlib
from importlib.metadata import version
from typing import Final

import numpy as np
from onnx import ModelProto

from rnnx._adopt.calls import Arrays, Contract, PlainSession, call, golden_array
from rnnx._adopt.dataflow import Dataflow
from rnnx._adopt.pairs import Pair
from rnnx._adopt.samples import Sampler
from rnnx._adopt.source import OriginalFile
from rnnx._adopt.stepping import Precision, Stepping
from rnnx._errors import AdoptError
from rnnx_runtime.artifact import (
    BATCH,
    FORMAT_VERSION,
    Array,
    Codec,
    Constant,
    GoldenTrace,
    Input,
    Manifest,
    Output,
    Provenance,
    ScalerCodec,
    StateSpec,
    Zeros,
)

_GOLDEN_STEPS: Final = 4


def make_manifest(
    name: str,
    original: OriginalFile,
    model: ModelProto,
    contract: Contract,
    stepping: Stepping,
    golden: GoldenTrace,
    precision: Precision,
    trusted: tuple[str, ...],
    codec: Codec | None,
) -> Manifest:
    """The contract, without what the proof will find.

    Raises:
        AdoptError: the codec, or a name in the file, does not fit it.
    """
    vocabularies = contract.vocabularies
    inputs = [
        Input(
            name=one.name,
            dtype=one.dtype,
            shape=contract.shapes[one.name],
            role="tokens" if one.name in vocabularies else "values",
            vocabulary_size=vocabularies.get(one.name),
        )
        for one in contract.inputs
    ]
    scores = _scores(codec, model, contract, golden)
    outputs = [
        Output(
            name=one.name,
            dtype=one.dtype,
            shape=contract.shapes[one.name],
            role="logits" if one.name == scores else "values",
        )
        for one in contract.outputs
    ]
    if codec is not None and not isinstance(codec, ScalerCodec):
        _check_vocabulary(codec, inputs, outputs)
    try:
        return Manifest(
            format_version=FORMAT_VERSION,
            name=name,
            inputs=tuple(inputs),
            outputs=tuple(outputs),
            states=tuple(_state(pair, contract) for pair in contract.pairs),
            streamable=stepping.refused is None,
            not_streamable_because=stepping.refused,
            chunks_matter_because=stepping.chunks_matter,
            lowering="adopted",
            precision=precision,
            codec=codec,
            golden=golden,
            provenance=Provenance(
                module=original.model.producer_name or "unknown",
                weights_sha256=_weights_digest(model),
                versions={package: version(package) for package in ("rnnx", "onnx", "onnxscript", "onnxruntime")},
                source_sha256=original.sha256,
            ),
            fixed_batch=contract.fixed_batch,
            one_step=contract.one_step,
            trusted=trusted,
        )
    except ValueError as error:
        raise AdoptError(str(error)) from None


def make_golden(session: PlainSession, contract: Contract, sampler: Sampler) -> GoldenTrace:
    """A run from the initial state in plain ONNX Runtime."""
    batch = contract.fixed_batch or 1
    chunk, states = sampler.chunk(contract, batch, _GOLDEN_STEPS, 4), contract.initial(batch)
    answers, following = call(session, contract, chunk, states, batch)
    names = {pair.input: pair.name for pair in contract.pairs}

    def in_graph(arrays: Arrays) -> dict[str, Array]:
        return {key: Array.of(golden_array(one, contract, key, batch, _GOLDEN_STEPS)) for key, one in arrays.items()}

    return GoldenTrace(
        inputs=in_graph(chunk),
        states={names[key]: Array.of(array) for key, array in states.items()},
        outputs=in_graph(answers),
        next_states={names[key]: Array.of(array) for key, array in following.items()},
    )


def _state(pair: Pair, contract: Contract) -> StateSpec:
    shape = contract.shapes[pair.input]
    return StateSpec(
        name=pair.name,
        input=pair.input,
        output=pair.output,
        dtype=pair.dtype,
        shape=shape,
        batch_axis=shape.index(BATCH) if BATCH in shape else None,
        init=Zeros() if pair.initial is None else Constant(value=Array.of(pair.initial)),
        found=pair.because,
    )


def _scores(codec: Codec | None, model: ModelProto, contract: Contract, golden: GoldenTrace) -> str | None:
    """The output that scores the codec's symbols at each step: of several of that size, the one that is made of the others.

    Raises:
        AdoptError: it gives their probabilities; or there are several, and none is made of the others.
    """
    if codec is None or isinstance(codec, ScalerCodec):
        return None
    fitting = [
        one.name
        for one in contract.outputs
        if one.dtype.startswith("float")
        and contract.shapes[one.name][-1:] == (len(codec.vocabulary),)
        and contract.has_time(one.name)
    ]
    flow = Dataflow(model.graph)
    last = [one for one in fitting if not any(one in flow.above(other) for other in fitting if other != one)]
    if len(last) > 1:
        raise AdoptError(
            f"{', '.join(last)} may each score the {len(codec.vocabulary)} symbols of the vocabulary; take all but one off the graph's "
            "outputs, or adopt the file without a vocabulary"
        )
    if not last:
        return None
    values = golden.outputs[last[0]].numpy()
    if (values >= 0).all() and np.allclose(values.sum(axis=-1), 1, atol=1e-3):
        raise AdoptError(
            f"{last[0]} gives probabilities, but a vocabulary needs scores, or their logarithms; take the Softmax off the "
            "graph's end, or adopt the file without a vocabulary"
        )
    return last[0]


def _check_vocabulary(codec: Codec, inputs: list[Input], outputs: list[Output]) -> None:
    assert not isinstance(codec, ScalerCodec)
    symbols = len(codec.vocabulary)
    sizes = {spec.vocabulary_size for spec in inputs}
    if sizes != {symbols}:
        found = ", ".join(f"{spec.name} takes {spec.vocabulary_size or 'no'} tokens" for spec in inputs)
        raise AdoptError(f"the vocabulary has {symbols} symbols, but {found}; give the one that the model was trained with")
    if not any(spec.role == "logits" for spec in outputs):
        found = ", ".join(f"{spec.name} {list(spec.shape)}" for spec in outputs)
        raise AdoptError(f"the vocabulary has {symbols} symbols, but no output scores as many at each step: {found}")


def _weights_digest(model: ModelProto) -> str:
    """SHA-256 over names, types, shapes and bytes of all weights."""
    digest = hashlib.sha256()
    for tensor in sorted(model.graph.initializer, key=lambda one: one.name):
        digest.update(tensor.SerializeToString(deterministic=True))
    return digest.hexdigest()
