"""`rnnx.bench`: an artifact on this machine, beside its peers, alone and with many streams at once."""

import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rnnx._bench.figures import CHUNK, TOKENS, Contest, Threads
from rnnx._bench.machine import this_machine, usable_cores
from rnnx._bench.peers import TORCH, Setting, entries, parse_peers
from rnnx._bench.report import Bench
from rnnx._bench.samples import Samples, Task
from rnnx._bench.timing import measure, on_one_core, taken_by_others
from rnnx._bench.workloads import chunk, generation, many_streams, more_threads
from rnnx_runtime import ArtifactError, InputError, Model, load
from rnnx_runtime.artifact import MANIFEST_KEY, Artifact, open_artifact

if TYPE_CHECKING:
    from torch import nn

    from rnnx._lift import Lift

# Relative above 1, over some steps with the state carried. The first is that of the golden trace: other wiring is off by more.
_TOLERANCE: Final = 1e-4
_TOLERANCE_OF_DOUBLES: Final = 1e-9
_MOST_STREAMS: Final = 65_536
_MOST_SECONDS: Final = 3600.0

_CHUNK: Final = "chunk"
_GENERATION: Final = "generation"

Progress = Callable[[str, float], None]


def bench(
    artifact: str | os.PathLike[str],
    *,
    against: str | Sequence[str] = (),
    streams: int = 256,
    seconds: float = 10.0,
    providers: str | Sequence[str] | Mapping[str, Mapping[str, Any]] = "cpu",
    threads: int = 1,
    module: "nn.Module | None" = None,
    example: Any = None,
    states: Mapping[str, str] | None = None,
    axes: Mapping[str, str] | None = None,
    torchscript: str | os.PathLike[str] | None = None,
    trust: bool = False,
    progress: Progress | None = None,
) -> Bench:
    """Measure how fast an artifact is on this machine.

    One step, beside the peers and the other execution providers of this machine; a chunk, generation, many streams at once,
    and more threads. All that stands side by side is timed by turns, on one core where the system can keep a thread there;
    only the threads are free. What answers something else than the artifact is named, and not timed.

    Args:
        artifact: its path.
        against: the peers, a list or separated by commas: "eager", "torchscript", "session.run", "binding", "openvino".
        streams: how many at once, at most.
        seconds: what the timing may take, more or less; loading and comparing come on top.
        providers, threads, trust: as `rnnx_runtime.load` takes them. With several threads nothing is kept on one core.
        module, example, states, axes: as they were exported; for "eager".
        torchscript: the file for "torchscript", the `.pt` beside the artifact where None. Loading it runs the code in it.
        progress: called with what is measured, and the share of all that is done.

    Raises:
        ArtifactError: it is no whole artifact.
        InputError: an argument is out of range, a peer is unknown, or a module or file is given that no peer asks for.
        ProviderError: the provider is not here.
        LiftError, ExportError: the module is not what was exported.
    """
    peers = parse_peers(against)
    _check(peers, streams, seconds, module, torchscript)
    opened = open_artifact(artifact, trust=trust)
    tell = progress or (lambda what, done: None)
    tell("looking for peers", 0.0)
    lift = _lift(peers, module, example, states, axes, opened)
    setting = Setting(opened, Path(artifact), threads, trust, lift, None if torchscript is None else Path(torchscript))
    cores = usable_cores()
    shares = (0.5, 0.3, 0.2) if cores > 1 else (0.6, 0.4, 0.0)
    with ExitStack() as stack:
        core = stack.enter_context(on_one_core() if threads == 1 else nullcontext())
        model = stack.enter_context(load(opened.data, providers=providers, threads=threads, trust=trust))
        granted = model.placement.granted
        task = Task(Samples(model))
        verdict, tolerance = _selftest(model)
        found, skipped = entries(peers, setting, task, tolerance, stack)
        more = {_CHUNK: (chunk(task), CHUNK), _GENERATION: (generation(task), TOKENS)}
        calls = {name: entry.call for name, entry in found.items()}
        taken = stack.enter_context(taken_by_others())
        timings = measure(
            calls | {name: call for name, (call, _) in more.items() if call is not None},
            shares[0] * seconds,
            {name: units for name, (_, units) in more.items()},
            lambda done: tell("one step", shares[0] * done),
        )
        rows, why_not = many_streams(
            task, streams, shares[1] * seconds, lambda done: tell("many streams", shares[0] + shares[1] * done)
        )
    counts: tuple[Threads, ...] = ()
    if cores > 1:
        counts = more_threads(
            opened,
            providers,
            trust,
            cores,
            streams,
            shares[2] * seconds,
            lambda done: tell("threads", 1 + shares[2] * (done - 1)),
        )
    return Bench(
        path=os.fspath(artifact),
        digest=opened.digest,
        manifest=opened.manifest,
        size=len(opened.data) - len(opened.graph.metadata[MANIFEST_KEY].encode()),
        operators=dict(opened.graph.operators),
        machine=this_machine(cores, core, _packages(found)),
        providers=granted,
        threads=threads,
        batch=task.batch,
        steps=task.steps,
        contests=tuple(Contest(name, timings[name], entry.contender.remark, entry.provider) for name, entry in found.items()),
        skipped=tuple(skipped),
        chunk=timings.get(_CHUNK),
        generation=timings.get(_GENERATION),
        streams=rows,
        no_streams_because=why_not,
        thread_counts=counts,
        selftest=verdict,
        taken=0.0 if core is None else taken(),
    )


def _check(peers: Sequence[str], streams: Any, seconds: Any, module: Any, torchscript: Any) -> None:
    if isinstance(streams, bool) or not isinstance(streams, int) or not 1 <= streams <= _MOST_STREAMS:
        raise InputError(f"streams must be a whole number from 1 to {_MOST_STREAMS}, got {streams!r}")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= _MOST_SECONDS:
        raise InputError(f"seconds must be above 0 and at most {_MOST_SECONDS:.0f}, got {seconds!r}")
    for given, what, peer in ((module, "a module", "eager"), (torchscript, "a TorchScript file", "torchscript")):
        if given is not None and peer not in peers:
            raise InputError(f"{what} is given, but nothing is compared with it; ask for the peer {peer!r}")


def _lift(
    peers: Sequence[str],
    module: "nn.Module | None",
    example: Any,
    states: Mapping[str, str] | None,
    axes: Mapping[str, str] | None,
    opened: Artifact,
) -> "Lift | None":
    """What "eager" needs, found before anything is kept on one core: torch counts the cores when it is imported."""
    if not set(peers) & set(TORCH) or importlib.util.find_spec("torch") is None:
        return None
    from rnnx._bench.torch_peers import lifted

    return None if module is None else lifted(module, example, states, axes, opened.manifest)


def _selftest(model: Model) -> tuple[str, float]:
    """The verdict on the golden trace, and how far from the runtime's own answers a peer may be."""
    stated = _TOLERANCE_OF_DOUBLES if model.manifest.precision == "float64" else _TOLERANCE
    try:
        tested = model.selftest()
    except ArtifactError:  # the trace holds no step
        return "", stated
    return tested.verdict, tested.tolerance if tested.tolerance > _TOLERANCE else stated


def _packages(found: Mapping[str, object]) -> list[str]:
    """Of what took part."""
    torch = ["torch"] if set(found) & set(TORCH) else []
    return ["rnnx", "onnxruntime", "numpy", *torch, *(["openvino"] if "openvino" in found else [])]
