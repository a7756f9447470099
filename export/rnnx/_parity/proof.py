"""The proof: the artifact, run by the runtime, against the eager module; every check of the gate, and a long run. No proof, no artifact."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Final, Literal

from rnnx._eager import first_line
from rnnx._errors import ExportError, LiftError
from rnnx._lift import Lift
from rnnx._parity.cases import Case
from rnnx._parity.gate import Depth, Gate
from rnnx._parity.report import ParityReport
from rnnx._parity.second_opinion import SecondOpinion, Unable
from rnnx._parity.subjects import ArtifactSubject, FileSubject, Script, ScriptSubject
from rnnx._parity.tolerances import Precision
from rnnx._parity.trajectory import MANY, follow
from rnnx._parity.twins import Twins
from rnnx._threads import one_thread
from rnnx_runtime import Model, RnnxError

Progress = Callable[[str, float], None]  # the check, and the share of all that is done

Proof = Literal["quick", "full", "thorough"]
DEPTHS: Final[dict[Proof, Depth]] = {
    "quick": Depth((1, 3), (1,), 0),
    "full": Depth((1, 2, 5), (1, 3), 10_000),
    "thorough": Depth((1, 2, 5), (1, 3), 1_000_000),
}
_BEFORE_TRAJECTORY: Final = 0.3  # of the time, roughly


def check_proof(proof: str) -> None:
    """Raises ExportError where there is no such proof."""
    if proof not in DEPTHS:
        raise ExportError(f"proof must be one of {', '.join(DEPTHS)}, got {proof!r}")


def prove(
    lift: Lift,
    model: Model,
    data: bytes,
    proof: Proof = "full",
    progress: Progress | None = None,
    precision: Precision | None = None,
) -> ParityReport:
    """Compare an artifact, loaded by the runtime, with the eager module.

    Args:
        model: the artifact on the execution provider that is to be proven.
        data: its bytes, for the second opinion.
        precision: that it computes in, where that is not the manifest's: "reduced" on a provider that was asked for fewer bits.

    Raises:
        LiftError: the eager module does not run at a size of the grid, or never as its own `forward` starts it.
    """
    on_cpu = set(model.placement.granted) <= {"cpu"}
    subject, depth, twins = ArtifactSubject(lift, model), DEPTHS[proof], Twins(lift)
    gate = Gate(twins, depth, precision or model.manifest.precision, on_cpu=on_cpu)
    streamable, tell = lift.not_streamable_because is None, progress or (lambda check, done: None)
    checks: dict[str, Callable[[], Iterable[Case]]] = {
        "untouched": partial(gate.untouched, subject),
        "whole": partial(gate.whole, subject),
        "padding": partial(gate.padding, subject),
    }
    if streamable:
        checks |= {name: partial(check, subject) for name, check in _stepped(gate).items()}
    else:
        checks["strict"] = partial(gate.strict, subject)
    if depth.trajectory:
        checks |= {"visited": partial(gate.visited, subject)} if streamable else {}
        checks["long"] = partial(gate.long, FileSubject(lift, data))
    cases: list[Case] = []
    trajectory, unable = None, ""
    with one_thread():
        for place, (name, check) in enumerate(checks.items()):
            tell(name, _BEFORE_TRAJECTORY * place / len(checks))
            cases += _all_of(lift, check)
        if depth.trajectory:
            judged = gate.second_opinion(SecondOpinion(model.manifest, data))
            cases, unable = (cases, judged.because) if isinstance(judged, Unable) else ([*cases, *judged], "")
        if depth.trajectory and streamable and not any(case.note for case in cases):
            run = partial(follow, lift, subject, depth.trajectory, gate.tolerance, twins)
            trajectory = run(progress=lambda done: tell("trajectory", _BEFORE_TRAJECTORY + (1 - _BEFORE_TRAJECTORY) * done))
            if not trajectory.passed and all(case.passed for case in cases):
                trajectory = run(nudged=MANY)  # nothing else is wrong: a rare event may explain it
    tell("proof", 1.0)
    return ParityReport(tuple(cases), proof, gate.tolerance, model.placement.granted, trajectory, unable)


def _stepped(gate: Gate) -> dict[str, Callable[[ArtifactSubject], Iterable[Case]]]:
    return {"one step": gate.one_step, "chunks": gate.stepping, "protocol": gate.protocol}


def _all_of(lift: Lift, check: Callable[[], Iterable[Case]]) -> list[Case]:
    """The cases of a check; that the module does not run at one of its sizes is told in the module's words."""
    try:
        return list(check())
    except RnnxError:
        raise
    except Exception as error:
        raise LiftError(f"{lift.name} does not run at every size: {first_line(error)}") from error


def prove_torchscript(lift: Lift, script: Script, precision: Precision, proof: Proof = "full") -> ParityReport:
    """Compare the traced module with the eager one."""
    subject = ScriptSubject(lift, script)
    gate = Gate(Twins(lift), DEPTHS[proof], precision, on_cpu=True)
    cases = [*gate.whole(subject)]
    if lift.not_streamable_because is None:
        cases += [*gate.one_step(subject), *gate.in_chunks(subject)]
    else:
        cases += gate.strict(subject)
    return ParityReport(tuple(cases), proof, gate.tolerance)
