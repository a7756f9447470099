"""The artifact contract, for those who write or examine artifacts; those who run them need only `rnnx_runtime.load`."""

from rnnx_runtime._artifact import Artifact, open_artifact
from rnnx_runtime._codec import CharCodec, Codec, OneHotCodec, ScalerCodec, TextCodec
from rnnx_runtime._files import check_writable, write_atomic
from rnnx_runtime._manifest import (
    BATCH,
    FORMAT_VERSION,
    INITIAL_KEY,
    MANIFEST_KEY,
    TIME,
    Array,
    Computed,
    Constant,
    Dimension,
    DType,
    GoldenTrace,
    Input,
    Manifest,
    Output,
    ParitySummary,
    Provenance,
    Sampling,
    StateSpec,
    Zeros,
)
from rnnx_runtime._preflight import Graph
from rnnx_runtime._seal import SEAL_KEY, seal

__all__ = [
    "BATCH",
    "FORMAT_VERSION",
    "INITIAL_KEY",
    "MANIFEST_KEY",
    "SEAL_KEY",
    "TIME",
    "Array",
    "Artifact",
    "CharCodec",
    "Codec",
    "Computed",
    "Constant",
    "DType",
    "Dimension",
    "GoldenTrace",
    "Graph",
    "Input",
    "Manifest",
    "OneHotCodec",
    "Output",
    "ParitySummary",
    "Provenance",
    "Sampling",
    "ScalerCodec",
    "StateSpec",
    "TextCodec",
    "Zeros",
    "check_writable",
    "open_artifact",
    "seal",
    "write_atomic",
]
