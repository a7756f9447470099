"""How far a training, a proof or a benchmark is: a bar on a terminal, plain lines in a pipe. Always on standard error."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TextIO

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

_SECONDS: Final = 10.0  # between two lines in a pipe

if TYPE_CHECKING:
    from rnnx_models._recipe import Recipe
    from rnnx_models.train import Progress as TrainingProgress


@contextmanager
def training_progress(recipe: "Recipe[Any]") -> Iterator[Callable[["TrainingProgress"], None]]:
    """A function to call after each step."""
    from rnnx_models._report import PlainProgress, short_figures

    console = Console(stderr=True)
    if not console.is_terminal:
        yield PlainProgress(recipe, lambda line: click.echo(line, err=True))
        return
    columns = (  # together 79 characters at most, but for the bar, which takes what is left
        TextColumn("{task.description}"),
        BarColumn(bar_width=None, table_column=Column(min_width=4)),
        TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
        TextColumn("left"),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(recipe.name, total=1.0, figures="")

        def advance(here: "TrainingProgress") -> None:
            epoch = f"{recipe.name} {here.epoch}/{here.epochs}"
            progress.update(task, completed=here.done, description=epoch, figures=short_figures(recipe, here))

        yield advance


@contextmanager
def proof_progress() -> Iterator[Callable[[str, float], None]]:
    """A function to call with the check at work, and the share of all that is done."""
    with _shares("proof", "looking for state") as tell:
        yield tell


@contextmanager
def bench_progress() -> Iterator[Callable[[str, float], None]]:
    """A function to call with what is measured, and the share of all that is done. The bar is drawn in these calls only."""
    with _shares("bench", "loading", by_itself=False) as tell:
        yield tell


@contextmanager
def _shares(what: str, first: str, *, by_itself: bool = True) -> Iterator[Callable[[str, float], None]]:
    stream = sys.stderr  # of now: while a module is exported, what is printed there is held back
    console = Console(file=stream)
    if not console.is_terminal:
        yield _line_now_and_then(what, stream)
        return
    columns = (
        TextColumn("{task.description}", table_column=Column(width=18)),
        BarColumn(bar_width=None, table_column=Column(min_width=4)),
        TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
        TextColumn("left"),
    )
    with Progress(*columns, console=console, transient=True, auto_refresh=by_itself) as progress:
        task = progress.add_task(first, total=1.0)
        yield lambda description, done: progress.update(task, completed=done, description=description, refresh=not by_itself)


def _line_now_and_then(what: str, stream: TextIO) -> Callable[[str, float], None]:
    last = time.monotonic()

    def tell(part: str, done: float) -> None:
        nonlocal last
        if time.monotonic() - last >= _SECONDS:
            last = time.monotonic()
            click.echo(f"{what}: {100 * done:.0f} %, {part}", file=stream)

    return tell
