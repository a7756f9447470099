"""The training command behind `rnnx train` and `python -m rnnx_models.train`: from options to a checkpoint."""

import argparse
import dataclasses
import itertools
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

from rnnx_models._corpus import read_text, vocabulary_of
from rnnx_models._options import Options, flag
from rnnx_models._plot import check_plot, save_plot
from rnnx_models._recipe import Recipe, SettingsError
from rnnx_models._registry import get_recipe
from rnnx_models._report import PlainProgress
from rnnx_models._resume import read_training, resume_path
from rnnx_models._training import Progress
from rnnx_models.checkpoint import read_config
from rnnx_models.train import TrainingInterruptedError, train
from rnnx_runtime import RnnxError
from rnnx_runtime.artifact import check_writable

_INTERRUPTED: Final = 130  # the usual exit code after Ctrl-C
_MOST: Final = {"hidden": 8192, "layers": 32}

Display = Callable[[Recipe[Any]], AbstractContextManager[Callable[[Progress], None]]]


def run(options: Options, program: str, display: Display) -> list[str]:
    """Train, and save what was made.

    Args:
        program: how the command is called, for the line that says how to resume.
        display: makes the function to be called after each step.

    Returns:
        Lines to be shown to the person.

    Raises:
        TrainingInterruptedError: it was stopped; the message says how to go on.
        RnnxError, OSError: as `train`; the options do not fit the model.
    """
    recipe_type = get_recipe(options.model)
    _check_paths(options)
    check_writable(options.checkpoint)
    if options.plot is not None:
        check_plot(options.plot)
    recipe = _make_recipe(recipe_type, options)
    try:
        with display(recipe) as on_progress:
            trained = train(
                recipe,
                seed=options.seed,
                epochs=options.epochs,
                batch_size=options.batch_size,
                seq_len=options.seq_len,
                lr=options.lr,
                device=options.device,
                path=options.checkpoint,
                resume=options.resume,
                on_progress=on_progress,
                on_stop=_say_stopping,
            )
    except TrainingInterruptedError as error:
        raise TrainingInterruptedError(f"{error}; go on with: {options.to_resume(program)}") from None
    header, planned = trained.header, trained.header.settings["epochs"]
    best = "" if header.best_epoch == planned else f", the best of {planned}"
    after = f"after {header.best_epoch} epoch{'s' if header.best_epoch > 1 else ''}{best}"
    lines = [f"{options.checkpoint}: {header.model}, {trained.score}, {after}"]
    if not header.reached:
        lines.append(
            f"{header.model} did not reach its target; train longer with --epochs, or with another --seed or --lr, to get to "
            f"{recipe.target}"
        )
    if options.plot is not None:
        save_plot(options.plot, recipe, trained.curve, header.unit)
        lines.append(f"{options.plot}: the loss curve")
    return lines


def _check_paths(options: Options) -> None:
    """Refuse to write over what is read, or twice to one file.

    Raises:
        SettingsError: two of the paths are the same file.
    """
    paths = {"--text": options.text, "--plot": options.plot, "--output": options.checkpoint}
    paths["the interrupted training"] = resume_path(options.checkpoint)
    given = [(name, os.path.realpath(path)) for name, path in paths.items() if path is not None]  # also of links in a circle
    for (one, path), (other, same) in itertools.combinations(given, 2):
        if path == same:
            raise SettingsError(f"{one} and {other} are the same file, {path}; give another")


def _make_recipe(recipe_type: type[Recipe[Any]], options: Options) -> Recipe[Any]:
    """The recipe with the sizes and the text that are asked for; with those of the interrupted training, to resume it.

    Raises:
        SettingsError: the model has no such size, or no text.
    """
    has = {field.name for field in dataclasses.fields(recipe_type.config_type)}
    config: dict[str, Any] = {name: getattr(options, name) for name in _MOST if getattr(options, name) is not None}
    for name, size in config.items():
        if name not in has:
            raise SettingsError(f"{recipe_type.name} has no {flag(name)}; leave it out")
        if not 1 <= size <= _MOST[name]:
            raise SettingsError(f"{name} must be from 1 to {_MOST[name]}, got {size}")
    if options.text is not None and not recipe_type.reads_text:
        raise SettingsError(f"{recipe_type.name} has no --text, its data are its own; leave it out")
    text = None if options.text is None else read_text(options.text)
    if options.resume:
        path = resume_path(options.checkpoint)
        interrupted, _ = read_training(path, recipe_type.name)
        config = {**interrupted.config, **config}  # what is asked for and differs is refused by `train`
        made = read_config(path, recipe_type, config)
    else:
        config |= {} if text is None else {"vocabulary": vocabulary_of(text)}
        made = recipe_type.config_type(**config)
    return recipe_type(made) if text is None else recipe_type(made, text)  # type: ignore[call-arg]


def _say_stopping() -> None:
    # Past Python's buffers, which a signal's handler may find in the middle of a line.
    os.write(2, b"\nstopping after this step, to save the training\n")


def main(arguments: list[str] | None = None) -> int:
    """`python -m rnnx_models.train`, in plain lines on standard error; returns the exit code."""
    parser = argparse.ArgumentParser("python -m rnnx_models.train", description="Train a model and save a checkpoint.")
    for field in dataclasses.fields(Options):
        flags = ["-o", flag(field.name)] if field.name == "output" else [flag(field.name)]
        kind, explained = field.metadata["kind"], field.metadata["help"]
        if kind is bool:
            parser.add_argument(*flags, action="store_true", help=explained)
            continue
        required = field.default is dataclasses.MISSING
        parser.add_argument(*flags, type=kind, required=required, default=None if required else field.default, help=explained)
    options = Options(**vars(parser.parse_args(arguments)))
    try:
        for line in run(options, "python -m rnnx_models.train", lambda recipe: nullcontext(PlainProgress(recipe, _say))):
            _say(line)
    except TrainingInterruptedError as error:
        _say(str(error))
        return _INTERRUPTED
    except KeyboardInterrupt:
        _say("stopped before the training began; nothing was saved")
        return _INTERRUPTED
    except RnnxError as error:
        _say(f"Error: {error}")
        return 1
    except OSError as error:
        _say(f"Error: {error.filename}: {error.strerror}" if error.filename else f"Error: {error}")
        return 1
    return 0


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
