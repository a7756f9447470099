"""What the manifest says, for people and for machines."""

from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from rnnx_runtime.artifact import CharCodec, Codec, Computed, Constant, Dimension, Manifest, Quantisation, ScalerCodec, Zeros


class Description:
    """An artifact in words."""

    def __init__(self, manifest: Manifest, operators: Sequence[str], size: int, digest: str) -> None:
        self._manifest = manifest
        self._operators = Counter(operators)
        self._size = size
        self._digest = digest

    def lines(self) -> list[str]:
        """One indented line per fact, with the group's name where a group begins."""
        manifest = self._manifest
        groups = {
            "inputs": [
                f"{spec.name}  {spec.dtype} {_shape(spec.shape)}"
                + (f", tokens 0 to {spec.vocabulary_size - 1}" if spec.vocabulary_size is not None else "")
                for spec in manifest.inputs
            ],
            "conditions": [f"{spec.name}  {spec.dtype} {_shape(spec.shape)}" for spec in manifest.conditions],
            "outputs": [f"{spec.name}  {spec.dtype} {_shape(spec.shape)}, {spec.role}" for spec in manifest.outputs],
            "states": [
                f"{spec.name} → {spec.output}  {spec.dtype} {_shape(spec.shape)}, starts with {_start(spec.init)}"
                + (f" ({spec.found})" if spec.found else "")
                for spec in manifest.states
            ],
            "axes": [_axes(manifest)],
            "steps": [_steps(manifest)],
            "lowering": [_lowering(manifest)],
            "trusted": _trusted(manifest),
            "codec": [_codec(manifest.codec)],
            "graph": [
                f"{sum(self._operators.values())} nodes: "
                + ", ".join(f"{count} {name}" if count > 1 else name for name, count in self._operators.items())
            ],
            "parity": _parity(manifest),
            "quantised": _quantised(manifest),
            "made by": [", ".join(f"{name} {version}" for name, version in manifest.provenance.versions.items())],
            "weights": [f"{manifest.provenance.module}, sha256 {manifest.provenance.weights_sha256}"],
            "file": [f"{self._size:,} bytes, sha256 {self._digest}"],
        }
        return [f"  {label if i == 0 else '':<11}{text}" for label, texts in groups.items() for i, text in enumerate(texts)]

    def to_json(self, beside: Mapping[str, object] | None = None) -> str:
        """The manifest as it stands in the file, and what was found beside it."""
        found = {
            **(beside or {}),
            "sha256": self._digest,
            "bytes": self._size,
            "operators": dict(self._operators),
            "manifest": msgspec.Raw(self._manifest.encode().encode()),
        }
        return msgspec.json.format(msgspec.json.encode(found)).decode()


def _axes(manifest: Manifest) -> str:
    whose = "the file's" if manifest.lowering == "adopted" else "the module's own, as the example has it"
    if manifest.fixed_batch is None and not manifest.one_step:
        return f"batch and seq_len vary; every other size is {whose}"
    batch = "batch varies" if manifest.fixed_batch is None else f"batch is {manifest.fixed_batch}"
    steps = "seq_len is 1: a call takes one step" if manifest.one_step else "seq_len varies"
    return f"{batch}, {steps}; every other size is {whose}"


def _lowering(manifest: Manifest) -> str:
    if manifest.lowering == "adopted":
        return f"adopted from a file with sha256 {manifest.provenance.source_sha256}; {manifest.lowering_because}"
    return manifest.lowering + (f": {manifest.lowering_because}" if manifest.lowering_because else "")


def _trusted(manifest: Manifest) -> list[str]:
    names = ", ".join(manifest.trusted)
    return [f"{names}: not in the runtime's list; load it with --trust"] if names else []


def _steps(manifest: Manifest) -> str:
    if not manifest.streamable:
        return f"whole sequences only: {manifest.not_streamable_because}"
    if manifest.chunks_matter_because is not None:
        return f"streamable; where its calls begin matters: {manifest.chunks_matter_because}"
    if manifest.one_step:
        return "streamable: a call takes one step, and hands its states on"
    return "streamable: steps, chunks and the whole sequence give the same"


def _start(init: Zeros | Constant | Computed) -> str:
    if isinstance(init, Computed):
        return "what the conditions give"
    return "given values" if isinstance(init, Constant) else "zeros"


def _shape(shape: tuple[Dimension, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _codec(codec: Codec | None) -> str:
    if codec is None:
        return "none: takes and gives numbers"
    if isinstance(codec, ScalerCodec):
        sides = [("in", codec.mean, codec.std), ("out", codec.output_mean, codec.output_std)]
        shown = [f"{side} mean {_numbers(mean)} std {_numbers(std)}" for side, mean, std in sides if mean]
        return f"scaler, {'; '.join(shown)}"
    kind = "char" if isinstance(codec, CharCodec) else "one-hot"
    symbols = codec.vocabulary if len(codec.vocabulary) <= 40 else f"{codec.vocabulary[:40]}…"
    unknown = "" if codec.unknown == "error" else f", unknown characters: {codec.unknown}"
    return f"{kind}, {len(codec.vocabulary)} symbols: {symbols!r}{unknown}"


def _numbers(numbers: tuple[float, ...]) -> str:
    return ", ".join(f"{number:g}" for number in numbers[:4]) + (", …" if len(numbers) > 4 else "")


def _parity(manifest: Manifest) -> list[str]:
    parity, quantisation = manifest.parity, manifest.quantisation
    if quantisation is not None:
        proven = "which was proven" if quantisation.source_proven else "which was not proven"
        return [f"none of its own: made of the artifact with sha256 {quantisation.source_sha256[:12]}, {proven}"]
    if parity is None:
        return ["no module was compared, only the file" if manifest.lowering == "adopted" else "not proven"]
    found = (
        f"{parity.cases} comparisons with eager PyTorch; largest difference: outputs {parity.outputs:.1e}, "
        f"states {parity.states:.1e}, chunks and steps {parity.stepping:.1e}"
    )
    lines = [found if parity.passed else f"NOT proven, it differs from the module: {found}"]
    if parity.second_opinion is not None:
        lines.append(f"a second opinion, onnx's reference evaluator: {parity.second_opinion:.1e}")
    run = parity.trajectory
    if run is not None:
        source = "float64" if run.reference == "float64" else "eager PyTorch"
        lines.append(
            f"after {run.steps} steps {run.error:.1e} from {source}, where rounding takes the module {run.eager:.1e}; "
            + ("no divergence" if run.horizon is None else f"another run from step {run.horizon} on")
        )
    return lines


def _quantised(manifest: Manifest) -> list[str]:
    done = manifest.quantisation
    if done is None:
        return []
    before, after = sum(one.bytes_before for one in done.weights), sum(one.bytes_after for one in done.weights)
    blocks = "" if done.block is None else f" in blocks of {done.block}"
    lines = [
        f"{manifest.precision}{blocks}: {len(done.weights)} weights, {before:,} → {after:,} bytes; {len(done.left)} left as they were"
    ]
    lines.append(f"{loss_in_words(done)}, on {done.data}")
    agreement = "" if done.agreement is None else f"; the same most likely symbol at {done.agreement:.2%} of the steps"
    lines.append(
        f"one step off by {done.one_step:.1e} at most; after {done.drift_steps} steps {done.drift:.2%} of the spread of the outputs"
        f"{agreement}"
    )
    return lines


def loss_in_words(done: Quantisation) -> str:
    """The loss before and after a quantisation."""
    if done.unit == "RMSE over spread":
        return f"{done.loss_after:.2%} of the spread of the outputs off the float artifact's (root mean square); {done.limit:.0%} is the limit"
    return f"{done.loss_before:.4f} → {done.loss_after:.4f} {done.unit}, {done.rise:+.2%}; {done.limit:+.0%} is the limit"
