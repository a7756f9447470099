"""`rnnx.verify`: the proof again, later, elsewhere, with other versions; against the module, or where that is gone, against itself."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec

from rnnx._companions import strangers
from rnnx._errors import ExportError
from rnnx._parity.alone import prove_alone
from rnnx._parity.report import ParityReport, versions
from rnnx._parity.tolerances import Precision
from rnnx_runtime import SelfTest, load
from rnnx_runtime.artifact import Manifest, open_artifact

if TYPE_CHECKING:
    from torch import nn

    from rnnx._lift import Lift
    from rnnx._parity.proof import Progress, Proof
    from rnnx._slots import LiftedInput


_FULL_PRECISION: Final = 1e-4  # the golden trace's tolerance, where no provider was asked to compute with fewer bits


@dataclass(frozen=True)
class Verification:
    """What a verification found.

    Attributes:
        path: of the artifact.
        module: the class of the eager module that it was compared with; None where it was compared with itself only.
        same_weights: whether that module has the weights that were exported; None where there is none.
        selftest: the golden trace, on this machine and provider.
        parity: all comparisons.
        strangers: files beside the artifact, as an export writes them, that belong to another one.
    """

    path: str
    digest: str
    manifest: Manifest
    module: str | None
    same_weights: bool | None
    selftest: SelfTest
    parity: ParityReport
    strangers: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return self.selftest.passed and self.parity.passed

    def __str__(self) -> str:
        """What was compared and found, line by line."""
        known = "the golden trace and itself only" if self.module is None else f"eager {self.module}"
        verdict = "holds" if self.passed else "does NOT hold"
        now, made = versions(), self.manifest.provenance.versions
        other = ", ".join(f"{name} {made[name]} → {now[name]}" for name in made if name in now and made[name] != now[name])
        weights = {True: "those that were exported", False: "NOT those that were exported: another checkpoint, or trained on"}
        facts = {
            "golden": str(self.selftest).split("\n", 1)[0],
            "weights": "" if self.same_weights is None else weights[self.same_weights],
            "proof": self.parity.proof if self.module is not None else "",
            "versions": f"other than it was made with: {other}" if other else "those that it was made with",
            "ran on": ", ".join(self.parity.providers),
        }
        lines = [f"{self.path}: {self.manifest.name} {verdict}, compared with {known}"]
        lines += [f"  {label:<11}{text}" for label, text in facts.items() if text]
        return "\n".join([*lines, self.parity.table()])

    def to_json(self) -> str:
        """The same for machines."""
        found = {
            "path": self.path,
            "sha256": self.digest,
            "name": self.manifest.name,
            "passed": self.passed,
            "compared_with": self.module,
            "same_weights": self.same_weights,
            "golden": {
                "verdict": self.selftest.verdict,
                "largest": self.selftest.largest,
                "tolerance": self.selftest.tolerance,
            },
            "strangers": self.strangers,
            "made_with": self.manifest.provenance.versions,
            "parity": msgspec.Raw(self.parity.to_json()),
        }
        return msgspec.json.format(msgspec.json.encode(found)).decode()


def verify(
    source: str | os.PathLike[str],
    module: "nn.Module | None" = None,
    example: Any = None,
    *,
    states: Mapping[str, str] | None = None,
    axes: Mapping[str, str] | None = None,
    providers: str | Sequence[str] | Mapping[str, Mapping[str, Any]] = "cpu",
    trust: bool = False,
    proof: "Proof" = "full",
    torchscript: str | os.PathLike[str] | None = None,
    progress: "Progress | None" = None,
) -> Verification:
    """Prove an artifact again: with its golden trace, and with the module that it was exported from.

    Without a module nothing but the golden trace says what is right; beside it the artifact's chunks and steps are compared with
    its own whole sequences, and with onnx's reference evaluator. That needs no torch.

    Args:
        source: the artifact's path.
        module, example, states, axes: as they were exported.
        providers: to run the artifact on, as `rnnx_runtime.load` takes them.
        trust: as `rnnx_runtime.load` takes it.
        proof, progress: as `rnnx.export` takes them.
        torchscript: the file that was exported beside it, to be compared with the module too. Loading it runs the code in it.

    Raises:
        ArtifactError: it is no whole artifact.
        LiftError, ExportError: the module cannot be compared with it: it has other inputs, outputs or states.
        ProviderError: the provider is not here.
    """
    opened = open_artifact(source, trust=trust)
    with load(opened.data, providers=providers, trust=trust) as model:
        tested = model.selftest()
        fewer = tested.tolerance > _FULL_PRECISION and not opened.manifest.reduced
        precision: Precision | None = "reduced" if fewer else None
        if module is None:
            report, lift = prove_alone(model, opened.data, precision), None
        else:
            from rnnx._parity.proof import check_proof, prove
            from rnnx._quiet import quiet
            from rnnx._readings import lift as find_lift
            from rnnx._threads import one_thread

            check_proof(proof)
            with quiet(), one_thread():
                lift = find_lift(getattr(module, "_orig_mod", module), example, states, axes)
                check_contract(lift, opened.manifest)
                report = prove(lift, model, opened.data, proof, progress, precision)
                if torchscript is not None:
                    report = report.also(_prove_torchscript(lift, torchscript, opened.manifest, proof))
    return Verification(
        os.fspath(source),
        opened.digest,
        opened.manifest,
        None if lift is None else lift.name,
        None if lift is None else _has_same_weights(lift, opened.manifest),
        tested,
        report,
        tuple(str(path) for path in strangers(source, opened)),
    )


def check_contract(lift: "Lift", manifest: Manifest) -> None:
    """Refuse a module whose inputs, outputs or states are others than the artifact's: values can't be compared then."""
    given = {what: {s.name: (str(s.example.dtype), s.shape) for s in specs} for what, specs in _inputs_of(lift).items()}
    sides = (
        ("inputs", given["inputs"], manifest.inputs),
        ("conditions", given["conditions"], manifest.conditions),
        ("outputs", {name: (lift.dtypes[name], shape) for name, shape in lift.outputs.items()}, manifest.outputs),
        ("states", {s.name: (str(s.dtype), s.shape) for s in lift.states}, manifest.states),
    )
    for what, found, specs in sides:
        mine = {name: (dtype.removeprefix("torch."), shape) for name, (dtype, shape) in found.items()}
        its = {spec.name: (spec.dtype, spec.shape) for spec in specs}
        if mine != its:
            raise ExportError(
                f"{lift.name} is not what the artifact was exported from: its {what} are {_words(mine)}, the artifact's {_words(its)}; "
                "give the module, sizes and example that were exported"
            )


def _inputs_of(lift: "Lift") -> "dict[str, tuple[LiftedInput, ...]]":
    return {"inputs": lift.inputs, "conditions": lift.conditions}


def _words(named: Mapping[str, tuple[str, tuple[int | str, ...]]]) -> str:
    return ", ".join(f"{name} {dtype} [{', '.join(map(str, shape))}]" for name, (dtype, shape) in named.items()) or "none"


def _has_same_weights(lift: "Lift", manifest: Manifest) -> bool:
    from rnnx._contract import weights_digest

    return weights_digest(lift.sited.eager.module) == manifest.provenance.weights_sha256


def _prove_torchscript(lift: "Lift", path: str | os.PathLike[str], manifest: Manifest, proof: "Proof") -> ParityReport:
    from rnnx._parity.proof import prove_torchscript
    from rnnx._torchscript import read

    return prove_torchscript(lift, read(path, manifest), "float64" if manifest.precision == "float64" else "float32", proof)
