"""The options of the training command, stated once for `rnnx train` and `python -m rnnx_models.train`. Imports no torch."""

import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


def _says(kind: Callable[[str], Any], explained: str) -> dict[str, Any]:
    """How an option's text becomes a value (bool for a flag), and what its help says."""
    return {"kind": kind, "help": explained}


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a person asks for; None where they leave it to the model."""

    model: str = field(metadata=_says(str, "One of `rnnx models`."))
    text: Path | None = field(
        default=None, metadata=_says(Path, "A UTF-8 file to learn from. Default: Python's language reference.")
    )
    epochs: int | None = field(
        default=None, metadata=_says(int, "Times through the data. Default, here and below: the model's own.")
    )
    batch_size: int | None = field(default=None, metadata=_says(int, "Sequences trained on at a time."))
    seq_len: int | None = field(default=None, metadata=_says(int, "Steps that the gradient flows back."))
    hidden: int | None = field(default=None, metadata=_says(int, "Size of the hidden state."))
    layers: int | None = field(default=None, metadata=_says(int, "Recurrent layers."))
    lr: float | None = field(default=None, metadata=_says(float, "The highest learning rate."))
    seed: int | None = field(default=None, metadata=_says(int, "The same seed gives the same checkpoint. Default: 0"))
    device: str = field(default="cpu", metadata=_says(str, "Where torch computes."))
    resume: bool = field(default=False, metadata=_says(bool, "Go on with what Ctrl-C stopped."))
    plot: Path | None = field(default=None, metadata=_says(Path, "Write the loss curve as this PNG; needs matplotlib."))
    output: Path | None = field(default=None, metadata=_says(Path, "The checkpoint. Default: artifacts/NAME.safetensors"))

    @property
    def checkpoint(self) -> Path:
        return self.output or checkpoint_path(self.model)

    def to_resume(self, program: str) -> str:
        """The command that goes on after an interruption."""
        words = [*program.split(), "--model", self.model]
        for name in ("text", "plot", "output"):
            value = getattr(self, name)
            words += [] if value is None else [flag(name), str(value)]
        words += [] if self.device == "cpu" else ["--device", self.device]
        return shlex.join([*words, "--resume"])


def checkpoint_path(model: str) -> Path:
    """Where a model's checkpoint is, where nothing else is said."""
    return Path("artifacts") / f"{model}.safetensors"


def flag(name: str) -> str:
    """How an option is written: `--batch-size`."""
    return f"--{name.replace('_', '-')}"
