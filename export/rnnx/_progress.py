"""How far a training is: a bar on a terminal, a few plain lines in a pipe. Always on standard error."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from rnnx_models.train import Epoch

_LINES = 10  # in a pipe


@contextmanager
def training_progress(name: str, epochs: int) -> Iterator[Callable[["Epoch"], None]]:
    """A function to call after each epoch."""
    console = Console(stderr=True)
    if not console.is_terminal:
        every = max(1, epochs // _LINES)

        def report(epoch: "Epoch") -> None:
            if epoch.number % every == 0 or epoch.number == epochs:
                click.echo(f"{name}: epoch {epoch.number}/{epochs}, loss {epoch.loss:.4f}", err=True)

        yield report
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.4f}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(name, total=epochs, loss=float("nan"))

        def advance(epoch: "Epoch") -> None:
            progress.update(task, completed=epoch.number, loss=epoch.loss)

        yield advance
