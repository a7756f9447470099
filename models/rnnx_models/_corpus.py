"""Text to learn from: read, split into what is trained on and what is held out, cut into parallel streams."""

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from rnnx_models._recipe import SettingsError, pieces
from rnnx_runtime import RnnxError

_HELD_OUT: Final = 10  # one part in so many, at the end
_HELD_OUT_AT_LEAST: Final = 2  # one to be given, one to be said
_JUDGED_STREAMS: Final = 32
_JUDGED_AT_LEAST: Final = 256  # characters per stream, of which the first few have little to go by
_JUDGED_AT_ONCE: Final = 256


class CorpusError(RnnxError, ValueError):
    """A text that nothing can be learned from."""


def read_text(path: str | os.PathLike[str]) -> str:
    """The text of a UTF-8 file, as it is but for a byte order mark.

    Raises:
        CorpusError: it is empty, or not UTF-8.
        OSError: it cannot be read.
    """
    data = Path(path).read_bytes()
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        at, line = error.start, data.count(b"\n", 0, error.start) + 1
        raise CorpusError(
            f"{os.fspath(path)} is not UTF-8: byte {at} is {data[at]:#04x}, in line {line}; save the text as UTF-8"
        ) from None
    if not text:
        raise CorpusError(f"{os.fspath(path)} is empty; give a text to learn from")
    return text


@cache
def default_text() -> str:
    """The language reference that comes with every CPython, about half a million characters."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics))


def vocabulary_of(text: str) -> str:
    """The characters of a text, each once, by code point."""
    return "".join(sorted(set(text)))


def check_length(length: int, batch_size: int, seq_len: int) -> None:
    """Refuse a text that does not fill one window, beside what is held out.

    Raises:
        SettingsError: it has fewer characters than the message says.
    """
    window = batch_size * seq_len + 1
    needed = max(window + _HELD_OUT_AT_LEAST, window + (window - 1) // (_HELD_OUT - 1))
    if length < needed:
        raise SettingsError(
            f"the text is too short: it has {length} characters, and {needed} are needed for one window of batch_size "
            f"{batch_size} and seq_len {seq_len} beside what is held out; give more text, or smaller windows"
        )


def split(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """What is trained on, and the tenth at the end that is held out."""
    border = len(tokens) - max(_HELD_OUT_AT_LEAST, len(tokens) // _HELD_OUT)
    return tokens[:border], tokens[border:]


def windows(tokens: Tensor, batch_size: int, seq_len: int, generator: torch.Generator) -> list[tuple[Tensor, Tensor]]:
    """One epoch: tokens `(B, T)` and those that follow them `(B, T)`.

    The text is cut into B streams that are read side by side, so that each row of a window goes on where the same row of the
    one before ended. What does not fill a window is left out, at the beginning and the end, and differs from epoch to epoch.

    Args:
        tokens: `(N,)`, of what is trained on; more than B·T.
    """
    used = (len(tokens) - 1) // (batch_size * seq_len) * batch_size * seq_len
    start = int(torch.randint(len(tokens) - used, (), generator=generator))
    x = tokens[start : start + used].view(batch_size, -1)  # (B, count·T)
    y = tokens[start + 1 : start + 1 + used].view(batch_size, -1)  # (B, count·T)
    return list(zip(pieces(x, seq_len, 1), pieces(y, seq_len, 1), strict=True))


def held_out_windows(tokens: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The held-out text, at least two tokens, as `windows` has it: in a few streams, the last window shorter."""
    streams = max(1, min(_JUDGED_STREAMS, len(tokens) // _JUDGED_AT_LEAST))
    length = (len(tokens) - 1) // streams
    x = tokens[: streams * length].view(streams, length)
    y = tokens[1 : streams * length + 1].view(streams, length)
    return zip(pieces(x, _JUDGED_AT_ONCE, 1), pieces(y, _JUDGED_AT_ONCE, 1), strict=True)
