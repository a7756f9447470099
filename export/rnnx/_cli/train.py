"""`rnnx train`: a skin over `rnnx_models._command`, which `python -m rnnx_models.train` shares. Imports no torch by itself."""

import dataclasses
from typing import Any, Final

import click

from rnnx_models._options import Options, checkpoint_path, flag

__all__ = ["Options", "checkpoint_path", "train", "train_with"]

_INTERRUPTED: Final = 130  # the usual exit code after Ctrl-C


def train_with(options: Options) -> None:
    """Train, save, and say on standard error what was made.

    Raises:
        RnnxError, OSError: as `rnnx_models.train.train`.
        click.exceptions.Exit: Ctrl-C stopped it, and it was saved.
    """
    from rnnx._cli.progress import training_progress
    from rnnx_models._command import run
    from rnnx_models.train import TrainingInterruptedError

    try:
        lines = run(options, "rnnx train", training_progress)
    except TrainingInterruptedError as error:
        click.echo(str(error), err=True)
        raise click.exceptions.Exit(_INTERRUPTED) from None
    for line in lines:
        click.echo(line, err=True)


def _parameters() -> list[click.Parameter]:
    """The command's options, as `Options` states them."""
    return [
        click.Option(
            ["-o", flag(field.name)] if field.name == "output" else [flag(field.name)],
            type=None if field.metadata["kind"] is bool else field.metadata["kind"],
            is_flag=field.metadata["kind"] is bool,
            # click takes a default of None for a value, and would not ask for what is missing.
            **({"required": True} if field.default is dataclasses.MISSING else {"default": field.default}),
            metavar={"model": "NAME", "text": "FILE", "plot": "FILE", "output": "FILE"}.get(field.name),
            help=field.metadata["help"],
        )
        for field in dataclasses.fields(Options)
    ]


@click.command(params=_parameters())
def train(**given: Any) -> None:
    """Train a model and save a checkpoint.

    The best weights are kept, by a score on what was not trained on. Ctrl-C saves the training; --resume goes on with it as if
    nothing had happened.
    """
    train_with(Options(**given))
