"""What a model makes of whole texts: how likely one is, and which are the likeliest."""

import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from rnnx_runtime._engine import Engine
from rnnx_runtime._errors import ExecutionError, InputError
from rnnx_runtime._generation import prompt_tokens, stop_strings
from rnnx_runtime._inputs import real, whole
from rnnx_runtime._sampling import log_softmax
from rnnx_runtime._state import State, rows_of

_PIECE: Final = 512
_LARGEST_PENALTY: Final = 10


class Hypothesis(NamedTuple):
    """One answer of a beam search, and its natural log-probability."""

    text: str
    logprob: float


def bits_per_symbol(engine: Engine, text: str) -> float:
    """See `Model.score`."""
    graph = engine.graph
    codec = graph.text_codec()
    tokens = codec.tokens(text)
    if len(tokens) < 2:
        raise InputError(f"a text of {len(tokens)} known characters has nothing to predict; give at least two")
    state, total = engine.initial_state(1, {}), 0.0
    graph.check_streamable()
    piece = _PIECE if graph.manifest.chunks_matter_because is None else len(tokens)
    for first in range(0, len(tokens) - 1, piece):
        read, wanted = tokens[first : first + piece][: len(tokens) - 1 - first], tokens[first + 1 : first + 1 + piece]
        answers, state = engine.run(graph.check_chunk(codec.rows(read)[None]), state)
        scores = graph.logits(answers)
        if scores.ndim != 3:
            raise InputError("this artifact answers a whole sequence with one symbol; a text has no score by it")
        found = log_softmax(scores[0])
        total += float(found[np.arange(len(wanted)), wanted].sum())
    return -total / (len(tokens) - 1) / math.log(2)


def beam_search(
    engine: Engine,
    state: State,
    prompt: str,
    max_new_tokens: int,
    num_beams: int,
    length_penalty: float,
    stop: str | Sequence[str],
) -> list[Hypothesis]:
    """See `Stream.beam_search`."""
    graph = engine.graph
    codec = graph.text_codec()
    read = prompt_tokens(codec, prompt)
    count, width = whole("max_new_tokens", max_new_tokens, 1), whole("num_beams", num_beams, 1, 1024)
    words, power = stop_strings(stop), real("length_penalty", length_penalty)
    if width > 1 and graph.manifest.fixed_batch is not None:
        raise InputError(f"beams are the rows of one call, but this graph takes a batch of 1; set num_beams=1, got {width}")
    if abs(power) > _LARGEST_PENALTY:
        raise InputError(f"length_penalty must be from -{_LARGEST_PENALTY} to {_LARGEST_PENALTY}, got {length_penalty}")
    answers, state = engine.run(graph.symbols(read), state)
    logits = graph.last_logits(answers)  # (1, V)
    texts, scores = [""], np.zeros(1)
    finished: list[tuple[float, Hypothesis]] = []
    for length in range(1, count + 1):
        if not np.isfinite(logits.max(axis=-1)).all():
            raise ExecutionError(f"the model gave a logit of {logits.max()}; no symbol can be likelier than another by it")
        totals = scores[:, None] + log_softmax(logits)
        parents: list[int] = []
        tokens: list[int] = []
        kept: list[tuple[str, float]] = []
        # Twice as many as there are beams: should all of the better half end here, there is one left for each beam.
        for rank, place in enumerate(np.argsort(-totals, axis=None, kind="stable")[: 2 * width]):
            parent, token = divmod(int(place), totals.shape[1])
            total = float(totals[parent, token])
            text = texts[parent] + codec.decode([token])
            end = min((len(text) - len(word) for word in words if text.endswith(word)), default=None)
            if end is not None:
                if rank < width and total > -math.inf:
                    finished.append((total / length**power, Hypothesis(text[:end], total)))
            elif len(kept) < width and total > -math.inf:
                parents.append(parent)
                tokens.append(token)
                kept.append((text, total))
        texts, scores = [text for text, _ in kept], np.array([total for _, total in kept])
        finished = sorted(finished, key=lambda one: -one[0])[:width]
        if not kept or length == count or (len(finished) == width and finished[-1][0] >= scores[0] / length**power):
            break
        x = codec.rows(np.array(tokens))[:, None]  # (B, T=1) or (B, T=1, V)
        answers, state = engine.run(graph.check_chunk(x), rows_of(state, parents, graph.batch_axes))
        logits = graph.last_logits(answers)
    finished += [(total / length**power, Hypothesis(text, float(total))) for text, total in zip(texts, scores, strict=True)]
    best: list[Any] = sorted(finished, key=lambda one: -one[0])[:width]
    return [hypothesis for _, hypothesis in best]
