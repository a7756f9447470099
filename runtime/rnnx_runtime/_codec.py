"""Codecs: how text becomes what a model takes, and how its answer becomes text.

A codec is data in the manifest, never code: it is decoded strictly and validated before it is used. Text is taken as it
is, one symbol per Unicode code point, without normalisation.
"""

import operator
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from rnnx_runtime._errors import InputError


class _VocabularyCodec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", dict=True):
    """Base of the codecs with a vocabulary: token `i` is the character `vocabulary[i]`."""

    vocabulary: str

    def __post_init__(self) -> None:
        if not self.vocabulary:
            raise ValueError("the vocabulary is empty")
        if len(set(self.vocabulary)) != len(self.vocabulary):
            twice = next(c for c in self.vocabulary if self.vocabulary.count(c) > 1)
            raise ValueError(f"the vocabulary has {twice!r} twice")

    @abstractmethod
    def encode(self, text: str) -> NDArray[Any]:
        """What the model takes for `text`, one row per character.

        Raises:
            InputError: a character is not in the vocabulary.
        """

    def tokens(self, text: str) -> NDArray[np.int64]:
        """The tokens of `text`: int64, shape `(T,)`.

        Raises:
            InputError: it is no text, or a character is not in the vocabulary.
        """
        if not isinstance(text, str):
            raise InputError(f"a text must be a str, got {type(text).__name__}")
        try:
            return np.fromiter(map(self._tokens.__getitem__, text), np.int64, len(text))
        except KeyError:
            position, char = next((i, c) for i, c in enumerate(text) if c not in self._tokens)
            shown = self.vocabulary if len(self.vocabulary) <= 40 else self.vocabulary[:40] + "…"
            raise InputError(
                f"character {char!r} at position {position} is not in the model's vocabulary of {len(self.vocabulary)}: {shown!r}"
            ) from None

    def clean(self, text: str, unknown: Literal["skip", "replace"]) -> str:
        """`text` without the characters that are not in the vocabulary, or with a space (else the first symbol) for each.

        Raises:
            InputError: `unknown` is neither.
        """
        if unknown not in ("skip", "replace"):
            raise InputError(f"unknown characters are dealt with by 'skip' or 'replace', got {unknown!r}")
        other = "" if unknown == "skip" else " " if " " in self._tokens else self.vocabulary[0]
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

    def encode(self, text: str) -> NDArray[np.int64]:
        return self.tokens(text)


class OneHotCodec(_VocabularyCodec, frozen=True, tag="one_hot"):
    """The model takes one-hot rows: float32, shape `(T, V)`."""

    def encode(self, text: str) -> NDArray[np.float32]:
        tokens = self.tokens(text)
        rows = np.zeros((len(tokens), len(self.vocabulary)), np.float32)
        rows[np.arange(len(tokens)), tokens] = 1
        return rows


Codec = CharCodec | OneHotCodec
