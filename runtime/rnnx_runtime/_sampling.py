"""Drawing tokens from logits.

Drawing is one call: the largest of `logits / temperature + Gumbel noise` is distributed as the softmax is
(https://en.wikipedia.org/wiki/Gumbel_distribution#Gumbel_reparameterization_tricks), and needs no sum and no sort.
"""

import math
from typing import Any, Final, Self, final

import msgspec
import numpy as np
from numpy.typing import NDArray

from rnnx_runtime._errors import ExecutionError, InputError
from rnnx_runtime._inputs import real, whole


class SamplerOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How tokens are drawn. The names and meanings are those of transformers' `generate`, and so is their order: the
    penalty first, then temperature, top_k, top_p and min_p, each on what the one before left.

    Attributes:
        temperature: 0 takes the most likely token, 1 draws from the model's own distribution.
        top_k: only the k most likely tokens are drawn from; None for all.
        top_p: only the most likely tokens that together reach this probability; None for all.
        min_p: only tokens at least this times as likely as the most likely one; None for all.
        repetition_penalty: the logits of tokens that were there before are divided by it where positive, else multiplied;
            1 for none (https://arxiv.org/abs/1909.05858, section 4.1).
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0

    def checked(self) -> Self:
        """These options, every one of the right type and in range.

        Raises:
            InputError: one is not.
        """
        temperature = real("temperature", self.temperature)
        if temperature < 0:
            raise InputError(f"temperature must be 0 or more, got {self.temperature}")
        penalty = real("repetition_penalty", self.repetition_penalty)
        if penalty <= 0:
            raise InputError(f"repetition_penalty must be above 0, got {self.repetition_penalty}")
        top_p = None if self.top_p is None else real("top_p", self.top_p)
        if top_p is not None and not 0 < top_p <= 1:
            raise InputError(f"top_p must be above 0 and at most 1, got {self.top_p}")
        min_p = None if self.min_p is None else real("min_p", self.min_p)
        if min_p is not None and not 0 <= min_p <= 1:
            raise InputError(f"min_p must be from 0 to 1, got {self.min_p}")
        top_k = None if self.top_k is None else whole("top_k", self.top_k, 1)
        return type(self)(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, repetition_penalty=penalty)


class RandomState(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where numpy's PCG64 stands: two numbers of 128 bits, in hexadecimal."""

    state: str
    increment: str


# Random numbers that are drawn at once: each call of numpy costs as much as some hundred of them.
_NUMBERS: Final = 4096

# Below the first of these temperatures, even noise in float64 is rounded away where it is added to large logits, and ties would
# always go to the first; far above the second, it overflows.
_COLD: Final = 1e-3
_HOT: Final = 1e6


@final
class Sampler:
    """Draws tokens from logits. The same seed draws the same tokens from the same logits; None draws others each time.

    Attributes:
        seen: which tokens were there before, for the penalty: bool, `(V,)`.
        noise: drawn and not used, `(V,)` each; the next one is the last.
    """

    def __init__(self, options: SamplerOptions, seed: int | None, symbols: int) -> None:
        self.options = options
        self.seen = np.zeros(symbols, np.bool_)
        self._random = np.random.Generator(np.random.PCG64(seed))
        # Where nothing is cut off, it is enough to add the noise, times the temperature, to the logits.
        self._uncut = _COLD <= options.temperature <= _HOT and options == SamplerOptions(temperature=options.temperature)
        self.noise: list[NDArray[Any]] = []
        self._filling = False  # `noise`; where that is interrupted, it is begun anew
        self._drawn_from = self.random_state()  # where the random numbers stood before the noise

    def draw(self, logits: NDArray[Any]) -> int:
        """A token, from logits `(V,)`; some may be -inf, for tokens that are never drawn.

        Raises:
            ExecutionError: the largest is not finite.
        """
        token = self.peek(logits)
        del self.noise[-1:]
        return token

    def peek(self, logits: NDArray[Any]) -> int:
        """The token that `draw` gives next; it is drawn once its noise is removed.

        Raises:
            ExecutionError: as `draw`.
        """
        if not self._uncut:
            return self._peek_at_part(logits)
        scores = logits + (self.noise[-1] if self.noise else self._next_noise())
        token = int(scores.argmax())  # of a NaN, if there is one
        if not math.isfinite(scores[token]):
            self._check(logits)
        return token

    def _peek_at_part(self, logits: NDArray[Any]) -> int:
        options = self.options
        if options.repetition_penalty != 1:
            # In float64: a float32 that is divided may overflow.
            logits = logits.astype(np.float64)
            again = logits[self.seen]
            logits[self.seen] = np.where(again > 0, again / options.repetition_penalty, again * options.repetition_penalty)
        best = self._check(logits)
        if options.temperature == 0:
            return best
        with np.errstate(over="ignore"):  # a very small temperature: all but the largest become -inf
            scores = (logits.astype(np.float64) - float(logits[best])) / options.temperature
        if options.top_k is not None and options.top_k < len(scores):
            scores[scores < np.partition(scores, -options.top_k)[-options.top_k]] = -np.inf
        if options.top_p is not None and options.top_p < 1:
            scores[~_nucleus(scores, options.top_p)] = -np.inf
        if options.min_p:
            scores[np.exp(scores) < options.min_p] = -np.inf  # the best has 0
        return int((scores + (self.noise[-1] if self.noise else self._next_noise())).argmax())

    def _check(self, logits: NDArray[Any]) -> int:
        """The most likely token."""
        best = int(logits.argmax())  # of a NaN, if there is one
        if not np.isfinite(logits[best]):
            raise ExecutionError(f"the model gave a logit of {logits[best]}; no token can be drawn from it")
        return best

    def _next_noise(self) -> NDArray[Any]:
        """Gumbel noise for one token, and more for those to come; times the temperature, where it is added to logits.

        It stays in float64: logits of 1e5 in float32 are further apart than noise of a low temperature is large.
        """
        if self._filling:
            self.set_random_state(self._drawn_from)
        self._drawn_from = self.random_state()
        self._filling = True
        symbols = len(self.seen)
        # The negative logarithm of exponential noise, which numpy draws three times as fast.
        drawn = -np.log(self._random.standard_exponential((max(1, _NUMBERS // symbols), symbols)))
        if self._uncut:
            drawn *= self.options.temperature
        noise: list[NDArray[Any]] = list(drawn[::-1])
        self.noise, self._filling = noise, False
        return noise[-1]

    def random_state(self) -> RandomState:
        """Where the random numbers stand, behind those that were used."""
        if self._filling:
            return self._drawn_from
        if self.noise:
            used = Sampler(self.options, 0, len(self.seen))
            used.set_random_state(self._drawn_from)
            used._random.standard_exponential(len(self.seen) * (max(1, _NUMBERS // len(self.seen)) - len(self.noise)))
            return used.random_state()
        inner: Any = self._random.bit_generator.state["state"]
        return RandomState(f"{inner['state']:x}", f"{inner['inc']:x}")

    def set_random_state(self, stands: RandomState) -> None:
        """Go on from there.

        Raises:
            ValueError: it is none.
        """
        inner = {"state": int(stands.state, 16), "inc": int(stands.increment, 16)}
        if not all(0 <= number < 1 << 128 for number in inner.values()):
            raise ValueError("a number of more than 128 bits")
        self._random.bit_generator.state = {"bit_generator": "PCG64", "state": inner, "has_uint32": 0, "uinteger": 0}
        self.noise, self._filling = [], False


def _nucleus(scores: NDArray[np.float64], top_p: float) -> NDArray[np.bool_]:
    """The most likely tokens that together reach `top_p`, the one that crosses it included."""
    order = scores.argsort()[::-1]
    likely = np.exp(scores[order] - scores[order[0]])
    before = (np.cumsum(likely) - likely) / likely.sum()
    kept = np.zeros(len(scores), np.bool_)
    kept[order[before < top_p]] = True
    return kept


def log_softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    """The log-probabilities (natural) of logits, over the last axis."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result
