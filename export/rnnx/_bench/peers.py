"""Who takes part: the peers that are asked for, and the runtime on the other execution providers of this machine."""

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rnnx._bench.contenders import OURS, Call, Contender, NotApplicableError, Ours
from rnnx._bench.figures import Skipped
from rnnx._bench.onnx_peers import Binding, SessionRun
from rnnx._bench.openvino_peer import OpenVino
from rnnx._bench.samples import Task
from rnnx._parity.compare import relative
from rnnx_runtime import InputError, RnnxError, list_providers, load
from rnnx_runtime.artifact import Artifact

if TYPE_CHECKING:
    from rnnx._lift import Lift

PEERS: Final = ("eager", "torchscript", "session.run", "binding", "openvino")
TORCH: Final = ("eager", "torchscript")


@dataclass(frozen=True)
class Setting:
    """What the peers are made of.

    Attributes:
        lift: the module; None where none was given.
        torchscript: the file; None for the one beside the artifact.
    """

    opened: Artifact
    path: Path
    threads: int
    trust: bool
    lift: "Lift | None"
    torchscript: Path | None


@dataclass(frozen=True)
class Entry:
    """A contender that answers as the artifact does; `provider` where it is the runtime on another one."""

    contender: Contender
    call: Call
    provider: str = ""


def parse_peers(against: str | Sequence[str]) -> tuple[str, ...]:
    """The peers' names, each once.

    Raises:
        InputError: one is unknown.
    """
    names = [name.strip() for name in against.split(",")] if isinstance(against, str) else list(against)
    names = [name for name in names if name]
    unknown = [name for name in names if name not in PEERS]
    if unknown:
        raise InputError(
            f"unknown peer {unknown[0]!r}; known are {', '.join(PEERS)}; other execution providers go to --provider"
        )
    return tuple(dict.fromkeys(names))


def entries(
    peers: Sequence[str], setting: Setting, task: Task, tolerance: float, stack: ExitStack
) -> tuple[dict[str, Entry], list[Skipped]]:
    """The runtime and all that answer the same, by name; and who does not take part, and why.

    Args:
        tolerance: how far from the runtime's answers others may be, relative above 1.
        stack: closed when all is measured.
    """
    ours = Ours(task)
    wanted = ours.answers()
    found = {OURS: Entry(ours, ours.call())}
    skipped = []
    torch = setting.lift is not None or ("torchscript" in peers and importlib.util.find_spec("torch") is not None)
    if torch:
        from rnnx._bench.torch_peers import computing, fastest

        stack.enter_context(computing(setting.threads))
    makers: dict[str, Callable[[], Contender]] = {
        "eager": lambda: _eager(task, setting),
        "torchscript": lambda: _torchscript(task, setting),
        "session.run": lambda: SessionRun(*_on_cpu(task, setting)),
        "binding": lambda: Binding(*_on_cpu(task, setting)),
        "openvino": lambda: OpenVino(task, setting.opened.data, setting.threads),
    }
    made = [(name, "", makers[name]) for name in peers] + list(_other_providers(task, setting, stack))
    for name, provider, make in made:
        try:
            contender = make()
            apart = max(relative(have, want) for have, want in zip(contender.answers(), wanted, strict=True))
            if not apart <= tolerance:
                raise NotApplicableError(f"it answers something else, off by {apart:.1e}, {tolerance:.0e} is allowed")
            call = contender.call()
            call()
            found[name] = Entry(contender, call, provider)
        except Exception as error:  # whatever the packages of others raise
            skipped.append(Skipped(name, _reason(error)))
    if torch:
        stack.enter_context(fastest())
    return found, skipped


def _eager(task: Task, setting: Setting) -> Contender:
    if setting.lift is None:
        raise NotApplicableError("it needs the module: --model NAME or --module FILE.py:FACTORY, module= in Python")
    from rnnx._bench.torch_peers import Eager

    return Eager(task, setting.lift)


def _torchscript(task: Task, setting: Setting) -> Contender:
    file = setting.path.with_suffix(".pt") if setting.torchscript is None else setting.torchscript
    if not file.exists():
        raise NotApplicableError(f"there is no {file}; name it with --torchscript FILE, torchscript= in Python")
    from rnnx._bench.torch_peers import TorchScript

    return TorchScript(task, file)


def _on_cpu(task: Task, setting: Setting) -> tuple[Task, bytes, int]:
    others = set(task.model.placement.granted) - {"cpu"}
    if others:
        raise NotApplicableError(f"it runs on the provider cpu, and this on {', '.join(sorted(others))}")
    return task, setting.opened.data, setting.threads


def _other_providers(task: Task, setting: Setting, stack: ExitStack) -> Iterator[tuple[str, str, Callable[[], Contender]]]:
    """The runtime on each of them."""

    def on(name: str) -> Contender:
        providers = [name] if name == "cpu" else [name, "cpu"]
        model = load(setting.opened.data, providers=providers, threads=setting.threads, trust=setting.trust)
        stack.enter_context(model)
        if name not in model.placement.granted:
            raise NotApplicableError("it takes no node of this artifact")
        return Ours(task, model)

    for report in list_providers():
        if report.here and report.name not in task.model.placement.granted:
            yield f"{OURS} on {report.name}", report.name, partial(on, report.name)


def _reason(error: Exception) -> str:
    text = str(error).strip().split("\n", 1)[0]
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name} is not installed: pip install 'rnnx[export]'"
    if isinstance(error, NotApplicableError | RnnxError):
        return text
    return f"it fails: {type(error).__name__}: {text}"
