"""The loss curve as a picture. matplotlib is an extra, imported only when a picture is asked for."""

import importlib.util
import io
import math
from pathlib import Path

from rnnx_models._recipe import Recipe, SettingsError
from rnnx_models._training import Curve
from rnnx_runtime.artifact import check_writable, write_atomic

_MOST_POINTS = 2000


def check_plot(path: Path) -> None:
    """Find out, before a training, that no picture can be made after it.

    Raises:
        SettingsError: matplotlib is missing, or the name does not end in .png.
        OSError: nothing can be written there.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise SettingsError("a plot needs matplotlib, which is not installed: pip install 'rnnx[plot]'")
    if path.suffix.lower() != ".png":
        raise SettingsError(f"a plot is a PNG: its name must end in .png, got {path.name!r}")
    check_writable(path)


def save_plot(path: Path, recipe: Recipe[object], curve: Curve, unit: str) -> None:
    """Write the loss of every step, its mean over every epoch, and the score after every epoch.

    Where the loss is a cross-entropy per character it is drawn in bits, on one axis with the score.
    """
    from matplotlib.figure import Figure  # without pyplot: no window, no global state

    scale = 1 / math.log(2) if recipe.in_bits else 1.0
    losses = [loss * scale for loss in curve.losses]
    steps = max(1, len(losses) // max(1, len(curve.scores)))  # per epoch
    epochs = [number + 1 for number in range(len(curve.scores))]
    means = [math.fsum(losses[steps * number : steps * (number + 1)]) / steps for number in range(len(epochs))]
    thinned = range(0, len(losses), -(-len(losses) // _MOST_POINTS) or 1)

    figure = Figure(figsize=(8, 5), layout="constrained")
    left = figure.add_subplot()
    every = [(step + 1) / steps for step in thinned], [losses[step] for step in thinned]
    lines = left.plot(*every, color="0.8", linewidth=0.8, label="trained on, every step")
    lines += left.plot(epochs, means, color="tab:blue", marker=".", label="trained on, mean of the epoch")
    right = left if recipe.in_bits else left.twinx()
    lines += right.plot(epochs, curve.scores, color="tab:orange", marker=".", label="judged after the epoch")
    left.set(xlabel="epoch", ylabel=unit if recipe.in_bits else "loss", title=recipe.name)
    if recipe.in_bits:
        left.set_ylim(
            min(means + curve.scores) - 0.1, max(means + curve.scores) + 0.1
        )  # the first steps would flatten the rest
    else:
        right.set_ylabel(unit)
    left.grid(visible=True, alpha=0.3)
    figure.legend(handles=lines, loc="outside lower center", ncols=len(lines))
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=120)
    write_atomic(path, data.getvalue())
