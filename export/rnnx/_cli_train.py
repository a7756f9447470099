"""`rnnx train`: a thin skin over `rnnx_models._command`, which `python -m rnnx_models.train` shares. Imports no torch by itself."""

import dataclasses
from typing import Any

import click

from rnnx_models._options import Options, flag

_INTERRUPTED = 130  # the usual exit code after Ctrl-C


def _all_options(command: click.Command) -> click.Command:
    for field in dataclasses.fields(Options):
        kind = field.metadata["kind"]
        command.params.append(
            click.Option(
                ["-o", flag(field.name)] if field.name == "output" else [flag(field.name)],
                type=None if kind is bool else click.Path(path_type=kind) if field.name in _PATHS else kind,
                is_flag=kind is bool,
                required=field.default is dataclasses.MISSING,
            )
        )
    return command
