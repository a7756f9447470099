"""Codecs: how text or values become what a model takes, and how its answer becomes text or values.

A codec is data in the manifest, never code: it is decoded strictly and validated before it is used. Text is taken as it
is, one symbol per Unicode code point, without normalisation.
"""

import math
import operator
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from rnnx_runtime._errors import InputError

Unknown = Literal["error", "skip", "replace"]

_MOST_SYMBOLS = 200_000  # all characters that Unicode names are fewer


class _VocabularyCodec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", dict=True):
    """Base of the codecs with a vocabulary: token `i` is the character `vocabulary[i]`.

    `unknown` says what becomes of a character that is not in it: an error, nothing, or `replacement`, which is a character of
    the vocabulary; where none is given, the space, else the first one.
    """

    vocabulary: str
    unknown: Unknown = "error"
    replacement: str | None = None

    def __post_init__(self) -> None:
        if not self.vocabulary:
            raise ValueError("the vocabulary is empty")
        if len(self.vocabulary) > _MOST_SYMBOLS:
            raise ValueError(f"the vocabulary has {len(self.vocabulary)} characters; it may have {_MOST_SYMBOLS}")
        found: set[str] = set()
        for char in self.vocabulary:
            if char in found:
                raise ValueError(f"the vocabulary has {char!r} twice")
            found.add(char)
        if self.replacement is not None and (len(self.replacement) != 1 or self.replacement not in self.vocabulary):
            raise ValueError(f"the replacement {self.replacement!r} is not a character of the vocabulary")
        if self.unknown not in get_args(Unknown):
            raise ValueError(f"unknown characters are dealt with by 'error', 'skip' or 'replace', got {self.unknown!r}")

    @abstractmethod
    def rows(self, tokens: NDArray[np.int64]) -> NDArray[Any]:
        """What the model takes for tokens `(T,)`, one row each."""

    def encode(self, text: str) -> NDArray[Any]:
        """What the model takes for `text`, one row per character.

        Raises:
            InputError: as `tokens`.
        """
        return self.rows(self.tokens(text))

    def tokens(self, text: str) -> NDArray[np.int64]:
        """The tokens of `text`: int64, shape `(T,)`; fewer than it has characters where unknown ones are skipped.

        Raises:
            InputError: it is no text, or a character is not in the vocabulary and unknown ones are an error.
        """
        if not isinstance(text, str):
            raise InputError(f"a text must be a str, got {type(text).__name__}")
        if self.unknown != "error":
            text = self.clean(text, self.unknown)
        try:
            return np.fromiter(map(self._tokens.__getitem__, text), np.int64, len(text))
        except KeyError:
            position, char = next((i, c) for i, c in enumerate(text) if c not in self._tokens)
            shown = self.vocabulary if len(self.vocabulary) <= 40 else self.vocabulary[:40] + "…"
            raise InputError(
                f"character {char!r} at position {position} is not in the model's vocabulary of {len(self.vocabulary)}: {shown!r}"
            ) from None

    def clean(self, text: str, unknown: Unknown) -> str:
        """`text` with its unknown characters left out ("skip") or replaced ("replace"); "error" leaves them.

        Raises:
            InputError: `unknown` is none of these.
        """
        if unknown not in get_args(Unknown):
            raise InputError(f"unknown characters are dealt with by 'error', 'skip' or 'replace', got {unknown!r}")
        if unknown == "error":
            return text
        other = "" if unknown == "skip" else self.replacement or (" " if " " in self._tokens else self.vocabulary[0])
        return "".join(char if char in self._tokens else other for char in text)

    def decode(self, tokens: Sequence[int] | NDArray[Any]) -> str:
        """The text of `tokens`, each in `[0, len(vocabulary))`.

        Raises:
            InputError: they are no whole numbers, or one is outside that range.
        """
        try:
            array = np.asarray(tokens)
            if array.size and array.dtype.kind not in "iuO":
                raise TypeError(array.dtype)
            numbers = [operator.index(token) for token in array.reshape(-1).tolist()]
        except (TypeError, ValueError):  # ValueError: ragged
            raise InputError(f"tokens must be whole numbers in one array, got {type(tokens).__name__}") from None
        wrong = next((token for token in numbers if not 0 <= token < len(self.vocabulary)), None)
        if wrong is not None:
            raise InputError(f"token {wrong} is outside the vocabulary of {len(self.vocabulary)}")
        return "".join(self.vocabulary[token] for token in numbers)

    @cached_property
    def _tokens(self) -> dict[str, int]:
        return {char: token for token, char in enumerate(self.vocabulary)}


class CharCodec(_VocabularyCodec, frozen=True, tag="char"):
    """The model takes tokens: int64, shape `(T,)`."""

    def rows(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        return tokens


class OneHotCodec(_VocabularyCodec, frozen=True, tag="one_hot"):
    """The model takes one-hot rows: float32, shape `(T, V)`."""

    def rows(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        rows = np.zeros((len(tokens), len(self.vocabulary)), np.float32)
        rows[np.arange(len(tokens)), tokens] = 1
        return rows


class ScalerCodec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="scaler"):
    """The model takes and gives values with mean 0 and standard deviation 1, people have them in units: volts, degrees.

    One number for all features, or one for each. Where there is no output part, the model's answers are taken as they are.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    output_mean: tuple[float, ...] = ()
    output_std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for side, mean, std in (("", self.mean, self.std), ("output_", self.output_mean, self.output_std)):
            if len(mean) != len(std) or not (mean or side):
                raise ValueError(f"{side}mean has {len(mean)} numbers, {side}std {len(std)}; give one of each per feature")
            if not all(map(math.isfinite, (*mean, *std))) or min(std, default=1) <= 0:
                raise ValueError(f"{side}mean and {side}std must be finite, and {side}std above 0")

    def encode(self, values: Any) -> NDArray[np.float64]:
        """`(..., F)` in units → `(..., F)` as the model takes them.

        Raises:
            InputError: they are no such numbers.
        """
        array = _numbers(values).astype(np.float64)
        _check_features(array, self.mean)
        scaled: NDArray[np.float64] = (array - np.array(self.mean)) / np.array(self.std)
        return scaled

    def decode(self, answer: NDArray[Any]) -> NDArray[Any]:
        """`(..., F)` as the model gives them → `(..., F)` in units, of the same type.

        Raises:
            InputError: there are several answers, or another number of features.
        """
        if isinstance(answer, dict):
            raise InputError("a scaler is for one output; give it the one that is meant")
        array = _numbers(answer)
        if not self.output_mean:
            return array
        _check_features(array, self.output_mean)
        values: NDArray[Any] = array * np.array(self.output_std) + np.array(self.output_mean)
        return values.astype(array.dtype) if array.dtype.kind == "f" else values


def _numbers(values: Any) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.asarray(values)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"values must be numbers in one array, got {type(values).__name__}") from None
    if array.dtype.kind not in "fiu" or isinstance(values, np.ma.MaskedArray):
        raise InputError(f"values must be numbers in one array, got {type(values).__name__} of {array.dtype}")
    return array


def _check_features(array: NDArray[Any], numbers: tuple[float, ...]) -> None:
    if array.ndim == 0 or (len(numbers) > 1 and array.shape[-1] != len(numbers)):
        raise InputError(f"the scaler has {len(numbers)} features, got values of the shape {array.shape}")


TextCodec = CharCodec | OneHotCodec
Codec = CharCodec | OneHotCodec | ScalerCodec
