"""The contenders: each takes the same steps of the same model in its own way. Answers are compared before calls are timed."""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

from rnnx._bench.samples import Arrays, Task
from rnnx_runtime import Model

OURS: Final = "rnnx"

Call = Callable[[], object]


class NotApplicableError(Exception):
    """A contender cannot be had here; the message says why, and what to do. Caught inside."""


class Contender(ABC):
    """One way to run the model, on one row, or on as many as the graph takes.

    Attributes:
        remark: what is to be known of its figures; empty where nothing is.
    """

    remark = ""

    @abstractmethod
    def answers(self) -> list[Arrays]:
        """What it answers to the task's calls, one after another from the first state, as the runtime answers."""

    @abstractmethod
    def call(self) -> Call:
        """What is timed: each time the next of the task's calls, over and over."""


@final
class Ours(Contender):
    """`Stream.step`, checks included; `Model.run` of whole sequences, where the model cannot be stepped."""

    def __init__(self, task: Task, model: Model | None = None) -> None:
        self._task = task
        self._model = task.model if model is None else model

    def answers(self) -> list[Arrays]:
        run = self._run()
        return [self._task.answered(run(self._task.given(arrays))) for arrays in self._task.calls]

    def call(self) -> Call:
        run, following = self._run(), itertools.cycle([self._task.given(arrays) for arrays in self._task.calls]).__next__
        return lambda: run(following())

    def _run(self) -> Callable[[Any], Any]:
        if self._task.stepped:
            return self._model.stream(state=self._task.begin).step
        run = self._model.run
        return lambda chunk: run(chunk)[0]


class GraphContender(Contender):
    """What takes and gives the graph's own tensors: `(*inputs, *states) -> (*outputs, *next states)`."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.outputs = [spec.name for spec in task.manifest.outputs]

    def prepared(self, feeds: Arrays) -> Any:
        """Inputs as `step` takes them, made before the time is taken."""
        return feeds

    @abstractmethod
    def reset(self) -> None:
        """Go back to the first state."""

    @abstractmethod
    def step(self, given: Any) -> Sequence[Any]:
        """One call: the outputs, and perhaps more behind them; the states are carried on where the model can be stepped."""

    def answers(self) -> list[Arrays]:
        self.reset()
        found = []
        for feeds in self.task.feeds():
            outputs: Mapping[str, NDArray[Any]] = {
                name: np.asarray(tensor) for name, tensor in zip(self.outputs, self.step(self.prepared(feeds)), strict=False)
            }
            found.append(self.task.batch_first(outputs))
        return found

    def call(self) -> Call:
        self.reset()
        step, following = self.step, itertools.cycle([self.prepared(feeds) for feeds in self.task.feeds()]).__next__
        return lambda: step(following())
