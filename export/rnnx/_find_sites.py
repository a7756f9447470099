"""The sites inside a module: recurrent layers, cells, and loops over time."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from rnnx._axes import repeat
from rnnx._cells import Call, find_cells, is_inside
from rnnx._eager import EagerModule, Example, Run
from rnnx._errors import LiftError, NothingFoundError
from rnnx._loops import ROUNDS, LoopSite, find_loops
from rnnx._operations import listing
from rnnx._over_time import OverTime
from rnnx._sites import Arguments, CellSite, LayerSite, Site, layer_input


@dataclass(frozen=True)
class Reading:
    """One way to understand a module.

    Attributes:
        pairs: arguments that are states, and the outputs that hand the next ones back.
        loops: whether state is looked for in the operations of Python loops, rather than at submodules called step by step.
        whole: whether no state is looked for: the module only ever takes whole sequences.
        bare: whether pairs and what the module keeps are all its state: what layers inside begin with is left as it is.
        kept: whether what the module keeps is state as its attributes have it, even where a layer takes it as it is.
    """

    pairs: tuple[tuple[str, str], ...] = ()
    loops: bool = False
    whole: bool = False
    bare: bool = False
    kept: bool = False


@final
class SiteFinder:
    """Finds the sites inside a module by calling it on its example, and on longer ones."""

    def __init__(self, eager: EagerModule, example: Example, reading: Reading) -> None:
        self._eager, self._example, self._reading = eager, example, reading

    def find(self) -> tuple[Site, ...]:
        """Recurrent layers, and cells or loops.

        Raises:
            NothingFoundError: this reading sees none.
            LiftError: one of them cannot be stepped.
        """
        reading, layers = self._reading, self._eager.layers()
        watch = [path for path, _ in self._eager.module.named_modules() if path]
        run = self._eager.run(
            self._example.own_arguments(),
            watch=[*watch, *(path for path in layers if not path)],
        )
        if isinstance(self._eager.module, OverTime) and self._eager.module.names:
            return (self._eager.module.site(),)
        sites: list[Site] = []
        if reading.loops:
            loop = self._find_loops()
            if loop is None:
                raise NothingFoundError(nothing_found(self._eager, self._example))
            sites.append(loop)
            cells: list[CellSite] = []
        else:
            cells = find_cells(run.calls) or self._find_cells_in_longer_example(watch, run)
            sites += cells
        for path, layer in layers.items():
            if layer.bidirectional and any(call.path == path for call in run.calls):
                raise LiftError(
                    f"{path or 'the module'}: a bidirectional layer needs the whole sequence and cannot be stepped"
                )
            calls = [call for call in run.calls if call.path == path]
            if any(path == cell.path or is_inside(path, cell.path) for cell in cells) or (reading.loops and len(calls) > 1):
                continue
            x = layer_input(calls[0].args, calls[0].kwargs) if calls else None
            if isinstance(x, PackedSequence):
                raise LiftError(f"{path or 'the module'}: a packed batch holds whole sequences, and cannot be stepped")
            if isinstance(x, Tensor) and x.ndim != 3:
                raise LiftError(
                    f"{path or 'the module'}: a recurrent layer must be given a batch of sequences, got a tensor of shape {tuple(x.shape)}"
                )
            for number in range(len(calls)):
                name = path if len(calls) == 1 else f"{path}.{number}".removeprefix(".")
                sites.append(LayerSite(path, layer, number, name))
        self._refuse_stray_cells(run.calls, cells)
        order = {call.path: place for place, call in reversed(list(enumerate(run.calls)))}
        return tuple(sorted(sites, key=lambda site: order.get(getattr(site, "path", ""), -1)))

    def _refuse_stray_cells(self, calls: Sequence[Call], cells: Sequence[CellSite]) -> None:
        if self._reading.loops or self._reading.pairs or self._eager.kept:
            return
        called = {call.path for call in calls}
        for path, part in self._eager.module.named_modules():
            inside = any(path == cell.path or is_inside(path, cell.path) for cell in cells)
            if isinstance(part, nn.RNNCellBase) and path in called and not inside:
                raise NothingFoundError(
                    f"{path}: this cell is not given, step by step, what it returned the step before; call it once for every "
                    "step, and hand its state on as it is"
                )

    def _find_cells_in_longer_example(self, watch: Sequence[str], run: Run) -> list[CellSite]:
        """In an example of a single step no cell is given what it returned: try three, along every axis of size 1."""
        if run.layer_steps:
            return []
        for longer in self._longer_examples(ROUNDS, only=1):
            cells = find_cells(self._try_calls(longer[0], watch))
            if cells:
                return cells
        return []

    def _try_calls(self, arguments: Arguments, watch: Sequence[str]) -> Sequence[Call]:
        try:
            return self._eager.run(arguments, watch=watch).calls
        except Exception:  # that axis is not time
            return []

    def _longer_examples(self, steps: int, only: int | None = None) -> Iterator[tuple[Arguments, tuple[int, int]]]:
        """The example at another number of steps: each size that an axis has could be time's, in every input that has it.

        With the place of a tensor that has the axis among the flattened arguments, and the axis.
        """
        tensors = self._example.tensors
        inputs = {name: t for name, t in tensors.items() if name not in dict(self._reading.pairs)}
        sizes = dict.fromkeys(size for t in inputs.values() for size in t.shape[:3] if only is None or size == only)
        for size in sizes:
            choices = [[None, *(a for a in range(t.ndim) if t.shape[a] == size)][::-1] for t in inputs.values()]
            for chosen in itertools.product(*choices):
                clock = next(((name, axis) for name, axis in zip(inputs, chosen, strict=True) if axis is not None), None)
                if clock is None:
                    continue
                axes = dict(zip(inputs, chosen, strict=True))
                longer = [t if (axis := axes.get(name)) is None else repeat(t, axis, steps) for name, t in tensors.items()]
                yield self._example.arguments(longer), (self._example.places[clock[0]], clock[1])

    def _find_loops(self) -> LoopSite | None:
        """Compare a call of `ROUNDS` steps with one that is longer by a step, whatever axis that may be."""
        pairs = zip(self._longer_examples(ROUNDS), self._longer_examples(ROUNDS + 1), strict=True)
        for (short, clock), (long, _) in pairs:
            try:
                with listing(self._eager.module) as fewer:
                    self._eager.run(short)
                with listing(self._eager.module) as more:
                    self._eager.run(long)
            except Exception:  # that axis is not time
                continue
            place, axis = clock
            loop = find_loops(fewer, more, (place, axis)) if len(more) > len(fewer) else None
            if loop is not None:
                return loop
        return None


def nothing_found(eager: EagerModule, example: Example) -> str:
    """What to say where no state is."""
    left = example.not_given
    hint = f"; if {' or '.join(left)} of forward is a state, give it in the example" if left else ""
    return (
        f"{eager.name} has no nn.RNN, nn.LSTM or nn.GRU, no cell that is given what it returned the step before, and "
        f"no loop over time that does the same in every step: there is no state to carry{hint}"
    )
