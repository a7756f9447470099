"""The peers that are torch: the eager module, and its TorchScript. Imported only where one of them is asked for."""

import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from rnnx._bench.contenders import Call, Contender, GraphContender, NotApplicableError
from rnnx._bench.samples import Arrays, Task
from rnnx._eager import first_line, frozen_copy
from rnnx._lift import Lift
from rnnx._over_time import OverTime
from rnnx._parity.subjects import eager_answers
from rnnx._quiet import quiet
from rnnx._readings import lift as find_lift
from rnnx._threads import one_thread
from rnnx._torchscript import read
from rnnx._verify import check_contract
from rnnx_runtime.artifact import Manifest


@contextmanager
def computing(threads: int) -> Iterator[None]:
    """Let torch compute without gradients, and with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.no_grad():
            yield
    finally:
        torch.set_num_threads(before)


def fastest() -> AbstractContextManager[object]:
    """While torch is timed: tensors without version counters, which looking for states needs."""
    return torch.inference_mode()


def lifted(
    module: nn.Module, example: Any, states: Mapping[str, str] | None, axes: Mapping[str, str] | None, manifest: Manifest
) -> Lift:
    """The module that an artifact was exported from, its state known.

    Raises:
        LiftError, ExportError: as `rnnx.export`; or the artifact was exported from another.
    """
    with quiet(), one_thread():
        lift = find_lift(getattr(module, "_orig_mod", module), example, states, axes)
        check_contract(lift, manifest)
        return lift


@final
class Eager(Contender):
    """The caller's own module, called as it is: in eval mode, with a state where `forward` takes one.

    Its answers are compared with the state carried; the time is that of the bare call, to its advantage.
    """

    def __init__(self, task: Task, lift: Lift) -> None:
        if lift.conditions:
            raise NotApplicableError(
                "forward computes the initial state anew in every call, so no step of it can be timed alone"
            )
        self._task, self._lift = task, lift
        self._states = {spec.name: torch.from_numpy(np.array(task.begin[spec.name])) for spec in task.manifest.states}
        self._inputs = [{name: torch.from_numpy(array) for name, array in feeds.items()} for feeds in task.feeds()]
        if task.stepped and not (lift.sited.explicit or lift.sited.eager.kept):
            self.remark = "forward takes no state: each of its steps starts anew"

    def answers(self) -> list[Arrays]:
        states: Mapping[str, Tensor] = self._states
        found = []
        for inputs in self._inputs:
            with quiet():
                outputs, following = eager_answers(self._lift, inputs, states)
            if self._task.stepped:
                states = following
            timed = {spec.name for spec in self._task.manifest.outputs if self._task.manifest.has_time(spec)}
            found.append({n: a[:, 0] if self._task.stepped and n in timed else a for n, a in outputs.items()})
        return found

    def call(self) -> Call:
        with quiet():
            module = frozen_copy(self._lift.sited.eager.module)
            calls = [self._lift.arguments(inputs, list(self._states.values())) for inputs in self._inputs]
            if isinstance(module, OverTime):  # of a module that takes one step; its owner writes the loop himself
                calls = [_inner(module, args, kwargs) for args, kwargs in calls]
                module = module.module
        try:
            module(*calls[0][0], **calls[0][1])
        except Exception as error:
            raise NotApplicableError(f"forward does not run on a batch of {self._task.batch}: {first_line(error)}") from None
        following = itertools.cycle(calls).__next__

        def call() -> object:
            args, kwargs = following()
            return module(*args, **kwargs)

        return call


def _inner(module: OverTime, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What the module inside is called with."""
    seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    handle = module.module.register_forward_pre_hook(lambda _, a, k: seen.append((a, k)), with_kwargs=True)
    try:
        module(*args, **kwargs)
    finally:
        handle.remove()
    return seen[0]


@final
class TorchScript(GraphContender):
    """The file that was exported beside the artifact, frozen."""

    def __init__(self, task: Task, path: str | os.PathLike[str]) -> None:
        super().__init__(task)
        with quiet():
            script = read(path, task.manifest).eval()
            freeze: Callable[[Any], Any] = torch.jit.freeze
            self._script = freeze(script)
        self.reset()

    def prepared(self, feeds: Arrays) -> Any:
        return tuple(torch.from_numpy(array) for array in feeds.values())

    def reset(self) -> None:
        self._states = tuple(torch.from_numpy(array.copy()) for array in self.task.states().values())

    def step(self, given: Any) -> Sequence[Any]:
        found: Sequence[Any] = self._script(*given, *self._states)
        if self.task.stepped:
            self._states = tuple(found[len(self.outputs) :])
        return found
