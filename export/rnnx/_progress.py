"""How far a training is: a bar on a terminal, plain lines in a pipe. Always on standard error."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from rnnx_models._recipe import Recipe
    from rnnx_models.train import Progress as TrainingProgress


@contextmanager
def training_progress(recipe: "Recipe[Any]") -> Iterator[Callable[["TrainingProgress"], None]]:
    """A function to call after each step."""
    from rnnx_models._report import PlainProgress, figures

    console = Console(stderr=True)
    if not console.is_terminal:
        yield PlainProgress(recipe, lambda line: click.echo(line, err=True))
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[figures]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(recipe.name, total=1.0, figures="")

        def advance(here: "TrainingProgress") -> None:
            epoch = f"{recipe.name}: epoch {here.epoch}/{here.epochs}"
            progress.update(task, completed=here.done, description=epoch, figures=figures(recipe, here))

        yield advance
