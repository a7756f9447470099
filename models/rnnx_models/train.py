"""Training: a recipe's epochs, one after the other, from a seed.

    python -m rnnx_models.train --model char_lstm --text book.txt

does what `rnnx train` does, in plain lines.
"""

import dataclasses
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final, final

import torch
from torch import Tensor

from rnnx_models._recipe import Recipe, Score, Settings, SettingsError
from rnnx_models._resume import check_same, read_training, restore, resume_path, save_training
from rnnx_models._training import Best, Curve, Progress, Training, TrainingError
from rnnx_models.checkpoint import CheckpointError, CheckpointHeader, save_checkpoint
from rnnx_runtime import RnnxError
from rnnx_runtime.artifact import check_writable

__all__ = ["Curve", "Progress", "Settings", "SettingsError", "Trained", "TrainingError", "TrainingInterruptedError", "train"]

_SAVE_EVERY: Final = 60.0  # seconds: what a crash costs


class TrainingInterruptedError(RnnxError):
    """Ctrl-C stopped the training, and it was saved."""


@dataclass(frozen=True)
class Trained:
    """What a training made: the best weights, their score, what a checkpoint says of them, and what was measured on the way."""

    header: CheckpointHeader
    score: Score
    weights: dict[str, Tensor]
    curve: Curve


def train(
    recipe: Recipe[Any],
    *,
    seed: int | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    seq_len: int | None = None,
    lr: float | None = None,
    device: str = "cpu",
    path: str | os.PathLike[str] | None = None,
    resume: bool = False,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    on_stop: Callable[[], None] = lambda: None,
) -> Trained:
    """Train a new module, or go on with one whose training was interrupted.

    The module is judged after every epoch, and the best weights are kept. The same seed gives the same weights on the same
    machine with the same number of threads, whether the training was interrupted or not. torch's global generator is set,
    and put back.

    Args:
        seed: 0 or more; 0 when None.
        epochs, batch_size, seq_len, lr: the recipe's own when None.
        path: of the checkpoint, for the best weights. Beside it, until the training is finished, is what it takes to resume.
            Both are written once a minute, so that a crash costs no more. None writes nothing.
        resume: go on with what was interrupted at `path`; what is given beside it must be as it was.
        on_progress: called after each step. A KeyboardInterrupt from it, or Ctrl-C, stops the training there.
        on_stop: called at each Ctrl-C, by the signal's handler, while the step that it waits for is still going on.

    Raises:
        TrainingError: it diverged. The checkpoint holds the best weights from before.
        TrainingInterruptedError: it was stopped, and saved at `path`; without a path, KeyboardInterrupt.
        SettingsError: the model cannot be trained this way, its sizes are too large for this machine, or an interrupted
            training is at `path` and is not to be resumed.
        CheckpointError: there is nothing to resume, or something else.
        OSError: a file cannot be written.
    """
    files = None if path is None else _Files(Path(path))
    given = {"epochs": epochs, "batch_size": batch_size, "seq_len": seq_len, "lr": lr}
    settings = recipe.settings.changed(recipe.name, **given)
    where = _checked_device(device)
    interrupted = None
    if resume:
        if files is None:
            raise SettingsError("there is nothing to resume without a path; give that of the checkpoint")
        interrupted = read_training(files.resume, recipe.name)
        check_same(files.resume, interrupted[0], recipe, seed=seed, **given)
        seed, settings = interrupted[0].seed, interrupted[0].settings
    elif files is not None and files.resume.exists():
        raise SettingsError(
            f"{files.resume} is an interrupted training; go on with it (train with --resume), or delete that file to begin anew"
        )
    seed = 0 if seed is None else seed
    if not 0 <= seed < 2**32:
        raise SettingsError(f"the seed must be from 0 to 2**32 - 1, got {seed}")
    with torch.random.fork_rng(devices=[where.index or 0] if where.type == "cuda" else []):
        damaged = None if files is None or interrupted is None else files.resume
        with _fitting(recipe, damaged):
            training = Training(recipe, seed, settings, where)
        if files is not None and interrupted is not None:
            restore(files.resume, training, *interrupted)
        with _stop_requests(on_stop) as stop_where_asked:
            if not training.finished:
                with _fitting(recipe, damaged):
                    _step(training, files, on_progress, stop_where_asked)
            while not training.finished:
                _step(training, files, on_progress, stop_where_asked)
            if files is not None:
                files.finish(training)
    best = training.best
    assert best is not None
    return Trained(_header(training, best), best.score, best.weights, training.curve)


@final
class _Files:
    """Where a training is kept, and when it was last written."""

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint, self.resume = checkpoint, resume_path(checkpoint)
        self._saved = time.monotonic()
        self._kept: Best | None = None
        check_writable(checkpoint)

    def save(self, training: Training) -> None:
        self.keep_best(training)
        save_training(self.resume, training)
        self._saved = time.monotonic()

    def save_now_and_then(self, training: Training) -> None:
        if time.monotonic() - self._saved > _SAVE_EVERY:
            self.save(training)

    def keep_best(self, training: Training) -> None:
        if training.best is not None and training.best is not self._kept:
            save_checkpoint(self.checkpoint, _header(training, training.best), training.best.weights)
            self._kept = training.best

    def finish(self, training: Training) -> None:
        self.keep_best(training)
        self.resume.unlink(missing_ok=True)


def _step(
    training: Training, files: _Files | None, on_progress: Callable[[Progress], None], stop_where_asked: Callable[[], None]
) -> None:
    """One step, and what is to be said and saved after it."""
    try:
        here = training.advance()
    except TrainingError as error:
        rate = f"lower the learning rate: give a smaller --lr than {training.settings.lr:g}"
        raise TrainingError(f"{error}; {rate}. {_kept(training, files)}") from None
    try:
        on_progress(here)
        stop_where_asked()
    except KeyboardInterrupt:
        if files is None:
            raise
        files.save(training)
        raise TrainingInterruptedError(
            f"stopped in epoch {here.epoch} of {here.epochs}, after step {here.step} of {here.steps}; saved as "
            f"{files.resume}, to be resumed"
        ) from None
    if files is not None:
        files.save_now_and_then(training)


@contextmanager
def _fitting(recipe: Recipe[Any], damaged: Path | None) -> Iterator[None]:
    """Turns what torch raises where sizes are too large, or a resumed training's tensors do not fit, into one line.

    Raises:
        SettingsError: the sizes; CheckpointError: `damaged`, the file that the training was resumed from.
    """
    try:
        yield
    except (RuntimeError, ValueError, TypeError, LookupError, OverflowError, MemoryError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if damaged is not None:
            raise CheckpointError(f"{damaged}: the training does not fit {recipe.name}: {reason}") from error
        if isinstance(error, RnnxError):
            raise
        raise SettingsError(f"{recipe.name} cannot be trained this way: {reason}; give smaller sizes") from error


@contextmanager
def _stop_requests(on_stop: Callable[[], None]) -> Iterator[Callable[[], None]]:
    """A function that raises KeyboardInterrupt once Ctrl-C was pressed.

    Between two steps a training can be saved; in the middle of one, where Python would raise, the weights may be half changed.
    A second Ctrl-C waits too, and does not break off the saving.
    """
    asked = False

    def remember(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        on_stop()

    def stop_where_asked() -> None:
        if asked:
            raise KeyboardInterrupt

    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield stop_where_asked  # signals are not ours to take
        return
    signal.signal(signal.SIGINT, remember)
    try:
        yield stop_where_asked
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _kept(training: Training, files: _Files | None) -> str:
    """Save the best weights of a training that went wrong, and say where they are."""
    if training.best is None:
        if files is not None:
            files.resume.unlink(missing_ok=True)  # resumed, it would go wrong again
        return "Nothing was saved: it came before the end of the first epoch"
    if files is None:
        return "Nothing was saved: there is no path"
    files.finish(training)
    return f"The best weights, of epoch {training.best.epoch}, are in {files.checkpoint}"


def _checked_device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        if torch.zeros(1, device=device).item() != 0.0:
            raise RuntimeError("it has no values")
    except (RuntimeError, AssertionError, NotImplementedError):
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        usable = "cpu" if accelerator is None else f"cpu and {accelerator.type}"
        raise SettingsError(f"torch cannot compute on the device {name!r} here; it can on {usable}") from None
    return device


def _header(training: Training, best: Best) -> CheckpointHeader:
    recipe = training.recipe
    return CheckpointHeader(
        model=recipe.name,
        config=dataclasses.asdict(recipe.config),
        seed=training.seed,
        best_epoch=best.epoch,
        score=best.score.value,
        unit=best.score.unit,
        reached=best.score.reached,
        settings=dataclasses.asdict(training.settings),
        text=recipe.fingerprint(),
    )


def main(arguments: list[str] | None = None) -> int:
    """The command: see `--help`."""
    from rnnx_models._command import main as run

    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
