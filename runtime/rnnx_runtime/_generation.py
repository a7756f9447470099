"""Generation: one symbol after the other, each drawn from what the model answered to the one before.

Drawing is one call: the largest of `logits / temperature + Gumbel noise` is distributed as the softmax is
(https://en.wikipedia.org/wiki/Gumbel_distribution#Gumbel_reparameterization_tricks), and needs no sum and no sort.
"""

from collections.abc import Iterator, Sequence
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from rnnx_runtime._errors import ExecutionError, InputError
from rnnx_runtime._inputs import real, whole


@final
class Sampler:
    """Draws tokens from logits. The names and meanings are those of transformers' `generate`.

    Args:
        temperature: 0 takes the most likely token, 1 draws from the model's own distribution.
        top_k: only the k most likely tokens are drawn from; None for all.
        top_p: only the most likely tokens that together reach this probability; None for all.
        seed: the same seed draws the same tokens from the same logits; None for another each time.

    Raises:
        InputError: a value is no number, or out of range.
    """

    def __init__(
        self, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None, seed: int | None = None
    ) -> None:
        self._temperature = real("temperature", temperature)
        if self._temperature < 0:
            raise InputError(f"temperature must be 0 or more, got {temperature}")
        self._top_k = None if top_k is None else whole("top_k", top_k, 1)
        self._top_p = None if top_p is None else real("top_p", top_p)
        if self._top_p is not None and not 0 < self._top_p <= 1:
            raise InputError(f"top_p must be above 0 and at most 1, got {top_p}")
        self._random = np.random.default_rng(None if seed is None else whole("seed", seed, 0))

    def draw(self, logits: NDArray[Any]) -> int:
        """A token, from logits `(V,)`; some may be -inf, for tokens that are never drawn.

        Raises:
            ExecutionError: the largest is not finite.
        """
        best = int(logits.argmax())  # of a NaN, if there is one
        if not np.isfinite(logits[best]):
            raise ExecutionError(f"the model gave a logit of {logits[best]}; no token can be drawn from it")
        if self._temperature == 0:
            return best
        with np.errstate(over="ignore"):  # a very small temperature: all but the largest become -inf
            scores = (logits.astype(np.float64) - float(logits[best])) / self._temperature
        if self._top_k is not None and self._top_k < len(scores):
            scores[scores < np.partition(scores, -self._top_k)[-self._top_k]] = -np.inf
        if self._top_p is not None and self._top_p < 1:
            scores[~_nucleus(scores, self._top_p)] = -np.inf
        return int((scores + self._random.gumbel(size=len(scores))).argmax())


def _nucleus(scores: NDArray[np.float64], top_p: float) -> NDArray[np.bool_]:
    """The most likely tokens that together reach `top_p`, the one that crosses it included."""
    order = scores.argsort()[::-1]
    likely = np.exp(scores[order] - scores[order[0]])
    before = (np.cumsum(likely) - likely) / likely.sum()
    kept = np.zeros(len(scores), np.bool_)
    kept[order[before < top_p]] = True
    return kept


def until_stop(pieces: Iterator[str], stop: Sequence[str]) -> Iterator[str]:
    """The text of `pieces` up to the first of the stop strings, which is left out.

    A piece is held back only while it could be the beginning of a stop string.
    """
    held = ""
    for piece in pieces:
        held += piece
        found = min((at for at in (held.find(word) for word in stop) if at >= 0), default=None)
        if found is not None:
            if found:
                yield held[:found]
            return
        keep = max((n for word in stop for n in range(1, len(word)) if held.endswith(word[:n])), default=0)
        if len(held) > keep:
            yield held[: len(held) - keep]
            held = held[len(held) - keep :]
    if held:
        yield held
