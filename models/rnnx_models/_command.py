"""The training command behind `rnnx train` and `python -m rnnx_models.train`: from options to a checkpoint."""

import argparse
import dataclasses
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
from rnnx_models.checkpoint import CheckpointError
from rnnx_models.train import TrainingInterruptedError, train
from rnnx_runtime import RnnxError
from rnnx_runtime.artifact import check_writable

_INTERRUPTED: Final = 130  # the usual exit code after Ctrl-C
_SIZES: Final = ("hidden", "layers")

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
    _refuse_foreign(recipe_type, options)
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
            )
    except TrainingInterruptedError as error:
        raise TrainingInterruptedError(f"{error}; go on with: {options.to_resume(program)}") from None
    header, planned = trained.header, trained.header.settings["epochs"]
    best = "" if header.epochs == planned else f", the best of {planned}"
    lines = [f"{options.checkpoint}: {header.model}, {header.score:.4g} {header.unit}, after {header.epochs} epochs{best}"]
    if not header.reached:
        lines.append(
            f"{header.model} did not reach its target; train longer with --epochs, or with another --seed, to get to {recipe.target}"
        )
    if options.plot is not None:
        save_plot(options.plot, recipe, trained.curve, header.unit)
        lines.append(f"{options.plot}: the loss curve")
    return lines


def _refuse_foreign(recipe_type: type[Recipe[Any]], options: Options) -> None:
    """Refuse options that the model does not have, and sizes that no module has."""
    settings = dataclasses.asdict(recipe_type.settings)
    has = [name for name, value in settings.items() if value is not None]
    has += [field.name for field in dataclasses.fields(recipe_type.config_type) if field.name in _SIZES]
    has += ["text"] if recipe_type.reads_text else []
    for name in (*settings, *_SIZES, "text"):
        if getattr(options, name) is not None and name not in has:
            raise SettingsError(f"{recipe_type.name} has no {flag(name)}; it has {', '.join(map(flag, has))}")
    for name in _SIZES:
        size = getattr(options, name)
        if size is not None and size < 1:
            raise SettingsError(f"{name} must be at least 1, got {size}")


def _make_recipe(recipe_type: type[Recipe[Any]], options: Options) -> Recipe[Any]:
    text = None if options.text is None else read_text(options.text)
    config: dict[str, Any] = {name: getattr(options, name) for name in _SIZES if getattr(options, name) is not None}
    if options.resume:
        path = resume_path(options.checkpoint)
        interrupted, _ = read_training(path)
        if interrupted.model != options.model:
            raise CheckpointError(
                f"{path} is a training of {interrupted.model!r}, not of {options.model!r}; give the one that fits"
            )
        config = {**interrupted.config, **config}  # what is asked for and differs is refused by `train`
    elif text is not None:
        config["vocabulary"] = vocabulary_of(text)
    made = recipe_type.config_type(**config)
    return recipe_type(made) if text is None else recipe_type(made, text)  # type: ignore[call-arg]


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
