"""What a training says of itself in plain lines, for a pipe or a log."""

import math
import time
from collections.abc import Callable
from typing import Any, Final, final

from rnnx_models._recipe import Recipe
from rnnx_models._training import Progress

_LINES: Final = 10  # for a short training
_SECONDS: Final = 20.0  # between lines of a long one


@final
class PlainProgress:
    """A line for every tenth of a training, or more where that takes long."""

    def __init__(self, recipe: Recipe[Any], say: Callable[[str], None]) -> None:
        self._recipe, self._say = recipe, say
        self._clock = Clock()
        self._said, self._said_at = 0.0, time.monotonic()

    def __call__(self, here: Progress) -> None:
        left = self._clock.left(here)
        now, last = time.monotonic(), here.done == 1.0
        tenth = here.step == here.steps and here.done - self._said > (1 - 1e-9) / _LINES
        if not (tenth or last or now - self._said_at > _SECONDS):
            return
        self._said, self._said_at = here.done, now
        within = "" if here.step == here.steps else f", step {here.step}/{here.steps}"
        time_left = "" if last else f", {spoken(left)} left"
        self._say(f"{self._recipe.name}: epoch {here.epoch}/{here.epochs}{within}, {figures(self._recipe, here)}{time_left}")


@final
class Clock:
    """How long a training will still take, by what it took so far."""

    def __init__(self) -> None:
        self._began: tuple[float, float] | None = None

    def left(self, here: Progress) -> float:
        """Seconds; the first step tells nothing yet, and is answered with 0."""
        now = time.monotonic()
        if self._began is None:
            self._began = now, here.done
            return 0.0
        since, done = self._began
        return (now - since) / (here.done - done) * (1 - here.done)


def figures(recipe: Recipe[Any], here: Progress) -> str:
    """The loss, in bits too where it is a cross-entropy per character, and the last score."""
    score = "" if here.score is None else f", {here.score}"
    return f"loss {here.loss:.4f}{_bits(recipe, here)}{score}"


def short_figures(recipe: Recipe[Any], here: Progress) -> str:
    """The same without the score's unit, at most 40 characters: beside a bar there is no room for more."""
    score = "" if here.score is None else f"  judged {here.score.figure}"
    return f"loss {here.loss:.3g}{_bits(recipe, here)}{score}"


def _bits(recipe: Recipe[Any], here: Progress) -> str:
    return f" ({here.loss / math.log(2):.3f} bits)" if recipe.in_bits else ""


def spoken(seconds: float) -> str:
    """A time that need not be exact: `40 s`, `3 min`, `2 h 5 min`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
