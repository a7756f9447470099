"""The report of the parity gate."""

import contextlib
import platform
import sys
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import msgspec

from rnnx._parity.cases import Case, Row, rows_of, table_of
from rnnx._parity.tolerances import Tolerance
from rnnx_runtime.artifact import ParitySummary, TrajectorySummary

if TYPE_CHECKING:
    from rnnx._parity.trajectory import Trajectory

_VERSIONS = ("rnnx", "torch", "onnx", "onnxscript", "onnxruntime", "numpy")


@dataclass(frozen=True)
class ParityReport:
    """All comparisons of one export.

    Attributes:
        proof: how much was compared: "quick", "full" or "thorough".
        providers: the execution providers that ran the artifact; none for TorchScript.
        no_second_opinion_because: why onnx's own evaluator did not judge; empty where it did, or was not asked.
    """

    cases: tuple[Case, ...]
    proof: str
    tolerance: Tolerance
    providers: tuple[str, ...] = ()
    trajectory: "Trajectory | None" = None
    no_second_opinion_because: str = ""

    def also(self, other: "ParityReport") -> "ParityReport":
        """The report with the cases of another."""
        return replace(self, cases=(*self.cases, *other.cases))

    @property
    def passed(self) -> bool:
        return all(case.passed for case in self.cases) and (self.trajectory is None or self.trajectory.passed)

    @property
    def failed(self) -> tuple[str, ...]:
        """The checks that failed."""
        checks = dict.fromkeys(case.label for case in self.cases if not case.passed)
        if self.trajectory is not None and not self.trajectory.passed:
            checks["trajectory"] = None
        return tuple(checks)

    def summary(self) -> ParitySummary:
        """What goes into the manifest."""
        cases = [case for case in self.cases if case.form == "onnx"]
        rows = rows_of(case for case in cases if not case.explained) or rows_of(cases)
        carried = [row for row in rows if row.check in ("chunks", "steps")]
        opinion = [row for row in rows if row.check == "reference"]
        run = self.trajectory
        return ParitySummary(
            passed=self.passed,
            cases=len(cases),
            by_rounding=sum(case.explained for case in cases),
            outputs=_finite(max(row.outputs for row in rows)),
            states=_finite(max(row.states for row in rows)),
            stepping=_finite(max((max(row.outputs, row.states) for row in carried), default=0.0)),
            tolerance=self.tolerance.absolute,
            proof=self.proof,  # type: ignore[arg-type]
            second_opinion=max((_finite(max(row.outputs, row.states)) for row in opinion), default=None),
            trajectory=None
            if run is None
            else TrajectorySummary(
                steps=run.steps,
                reference=run.reference,
                error=_finite(run.error),
                eager=_finite(run.eager),
                horizon=run.horizon,
                agreement=run.task.agreement,
                bits=run.task.bits,
                rmse=run.task.rmse,
            ),
        )

    def rows(self) -> list[Row]:
        """Per check, in the order in which they were made."""
        return rows_of(self.cases)

    def table(self) -> str:
        """The rows, the trajectory, and the first case that failed, as text."""
        lines = [f"  {line}" for line in table_of(self.rows())]
        lines += [f"  {line}" for line in self.trajectory_lines()]
        if self.no_second_opinion_because:
            lines.append(f"  no second opinion: {self.no_second_opinion_because}")
        explained = [case for case in self.cases if case.explained]
        if explained:
            lines.append(
                f"  {len(explained)} cases are off by more than the tolerance, and no further than rounding takes the module"
            )
        wrong = next((case for case in self.cases if not case.passed), None)
        if wrong is not None:
            note = f": {wrong.note}" if wrong.note else ""
            lines.append(f"  first at: {wrong.label}, batch {wrong.batch}, {wrong.steps} steps, {wrong.start} state{note}")
        return "\n".join(lines)

    def trajectory_lines(self) -> list[str]:
        """The long run in words."""
        run = self.trajectory
        if run is None:
            return []
        if run.steps == 0:
            return ["trajectory: none, for the states leave the finite numbers at the first step"]
        source = "float64" if run.reference == "float64" else "eager PyTorch"
        ends = "they stay together" if run.horizon is None else f"apart from step {run.horizon} on"
        if run.eager_horizon is not None:
            ends += f", the module from itself, by rounding, from step {run.eager_horizon} on"
        lines = [
            f"trajectory of {run.steps} steps: {run.error:.1e} from {source}, rounding takes the module {run.eager:.1e}; {ends}"
        ]
        task = [
            "" if run.task.agreement is None else f"{100 * run.task.agreement:.4g} % of the choices are the same",
            "" if run.task.bits is None else f"{run.task.bits:.1e} bits per symbol apart",
            "" if run.task.rmse is None else f"values {run.task.rmse:.1e} of their spread apart (RMSE)",
        ]
        lines += [", ".join(filter(None, task))] if any(task) else ["no step was near enough to compare choices or values"]
        if not run.task.passed:
            lines.append("trajectory: choices, bits or values are further apart than that is allowed")
        wrong = next((curve for curve in run.curves if not curve.passed), None)
        if wrong is not None:
            place = next(i for i, (e, a) in enumerate(zip(wrong.exported, wrong.allowed, strict=True)) if e > a)
            lines.append(
                f"trajectory leaves its envelope: {wrong.kind} {wrong.name} is {wrong.exported[place]:.1e} off at step "
                f"{run.marks[place]}, where {wrong.allowed[place]:.1e} are allowed"
            )
        return lines

    def to_json(self, artifact: str = "") -> bytes:
        """The whole report, with the versions and the machine that it was made with, and the artifact's SHA-256 where it is given."""
        found: dict[str, Any] = {
            **({"artifact": artifact} if artifact else {}),
            "passed": self.passed,
            "proof": self.proof,
            "failed": self.failed,
            "tolerance": asdict(self.tolerance),
            "providers": self.providers,
            "versions": versions(),
            "machine": platform.machine(),
            "no_second_opinion_because": self.no_second_opinion_because,
            "trajectory": None if self.trajectory is None else asdict(self.trajectory),
            "cases": [asdict(case) for case in self.cases],
        }
        return msgspec.json.format(msgspec.json.encode(found))


def _finite(value: float) -> float:
    """JSON has no infinity: the largest number stands for it."""
    return min(value, sys.float_info.max)


def versions() -> dict[str, str]:
    """Of what takes part in a comparison, as far as it is installed."""
    found = {}
    for package in _VERSIONS:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
