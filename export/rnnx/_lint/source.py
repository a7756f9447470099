"""The file under lint, as bytes or at a path: parsed, and what is known of it before a rule looks."""

import base64
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, final

import onnx
from onnx.inliner import inline_local_functions

from rnnx._lint.cut import cut
from rnnx._lint.model import LintedModel
from rnnx._lint.nodes import GATES, PACKED
from rnnx._lint.plan import plan_trials
from rnnx._lint.trials import run_apart, run_here
from rnnx._lint.weights import weights_of
from rnnx_runtime import ArtifactError
from rnnx_runtime.artifact import INITIAL_KEY, MANIFEST_KEY, SIZE_LIMIT, Manifest, inspect_graph, open_artifact, read_regular

Source = str | os.PathLike[str] | bytes | bytearray | memoryview  # a path, or the content of a file


@final
class LintSource:
    """One file.

    Raises:
        ArtifactNotFoundError: there is no file at the path.
        ArtifactError: it is no ONNX file, cannot be read, or is larger than the runtime's limit.
    """

    def __init__(self, source: Source) -> None:
        if isinstance(source, bytes | bytearray | memoryview):
            self.label, self._path = "bytes", None
            self._data: bytes | None = bytes(source)
        else:
            self.label, self._path = os.fspath(source), Path(source)
            self._data = read_regular(source, SIZE_LIMIT)
        self._safe = _is_safe(self._data)
        self.model = self._read(self._data)
        self.initial = self._read_initial()

    def run(self) -> None:
        """Give the model its trials, or the reason why it has none."""
        assert self._data is not None
        outside = {weight.location for weight in self.model.weights.values() if weight.location is not None}
        if outside and (self._path is None or self.model.missing):
            because = "no path tells where it is" if self._path is None else "it is not there"
            self.model.not_run_because = f"weights lie in another file, {min(outside)!r}, and {because}"
            return
        plan = plan_trials(self.model)
        if isinstance(plan, str):
            self.model.not_run_because = plan
        elif self._safe:
            self.model.trials = run_here(self._data, plan)
        elif self._path is None:
            self.model.trials = run_apart(self._data, plan)
        else:
            self._data = None  # the other process reads it for itself: twice would be too much of a large file
            self.model.trials = run_apart(str(self._path), plan)

    def _read(self, data: bytes) -> LintedModel:
        try:
            small, values = cut(data)
            model = onnx.load_model_from_string(small)
        except Exception:  # protobuf's own, one per implementation of it
            raise ArtifactError(f"{self.label!r} is not an ONNX file: it cannot be parsed") from None
        if not model.HasField("graph") or not model.graph.output:
            raise ArtifactError(f"{self.label!r} is not an ONNX file: it holds no graph with an output")
        if any(isinstance(text, bytes) for text in _texts(model)):
            raise ArtifactError(f"{self.label!r} is not an ONNX file: a name in it is not valid UTF-8")
        folder = None if self._path is None else self._path.parent
        weights = weights_of(model, values, folder)
        manifest, refused = _manifest(data, model)
        places = {weight.location for weight in weights.values() if weight.location is not None}
        missing = () if folder is None else tuple(sorted(place for place in places if not (folder / place).is_file()))
        return LintedModel(self.label, _inlined(model), weights, manifest, refused, missing)

    def _read_initial(self) -> LintedModel | None:
        """The second graph of an artifact, which computes initial states."""
        text = next((entry.value for entry in self.model.proto.metadata_props if entry.key == INITIAL_KEY), None)
        if text is None or self.model.manifest is None:
            return None
        return self._read(base64.b64decode(text))


def _texts(message: Any) -> Iterator[str | bytes]:
    """All its texts; protobuf hands over as bytes what is not UTF-8."""
    for kind, value in message.ListFields():
        if kind.type in (kind.TYPE_STRING, kind.TYPE_MESSAGE):
            single = isinstance(value, str | bytes) or hasattr(value, "ListFields")
            for one in [value] if single else value:
                if kind.type == kind.TYPE_STRING:
                    yield one
                else:
                    yield from _texts(one)


def _is_safe(data: bytes) -> bool:
    """Whether the runtime's preflight lets a graph through: then it can be run in this process.

    Of float16 ONNX Runtime survives some graphs only as the runtime loads them, and here they are loaded as anybody would.
    """
    try:
        found = inspect_graph(data)
        return not found.foreign and not found.half
    except ArtifactError:
        return False


def _manifest(data: bytes, model: onnx.ModelProto) -> tuple[Manifest | None, str | None]:
    """What an artifact says of itself; where it has a manifest and is none, why."""
    if not any(entry.key == MANIFEST_KEY for entry in model.metadata_props):
        return None, None
    try:
        return open_artifact(data, trust=True).manifest, None
    except ArtifactError as error:
        return None, str(error)


def _inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same without local functions: each call of one is its nodes."""
    if not model.functions:
        return model
    try:
        inlined: onnx.ModelProto = inline_local_functions(model)
        return inlined
    except Exception:  # one that calls itself, ...: then its calls are operators that nobody knows
        return model


def outside_operators(names: Iterable[str]) -> tuple[str, ...]:
    """Those that are not in the runtime's list, as its own walk of a graph tells that holds nothing else."""
    graph, model = onnx.GraphProto(), onnx.ModelProto(ir_version=10)
    for name in names:
        domain, _, operator = name.rpartition("::")
        if name not in GATES and name not in PACKED:  # these are in the list, and not without weights
            graph.node.add(op_type=operator, domain=domain)
    model.graph.CopyFrom(graph)
    for domain in {node.domain for node in graph.node} | {""}:
        model.opset_import.add(domain=domain, version=18 if not domain else 1)
    return inspect_graph(model.SerializeToString()).foreign
