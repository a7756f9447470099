"""How long does a sampled character take? A prompt of 20, then 500 characters at temperature 0.8, sampling included."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
import numpy as np
import torch

from benchmarks.heat import Contest, Heat
from benchmarks.models import GRU_2x256, LSTM_1x20, LSTM_2x128, Size
from benchmarks.peers import BoundMinimal, LiteRt, NotApplicableError, Numpy, Ours, Peer, Subject
from benchmarks.peers.peer import one_thread
from benchmarks.peers.session_run import session_of
from benchmarks.peers.transformers import Transformers
from benchmarks.question import Question, Setting, Target
from benchmarks.tables import heats_table, skipped
from rnnx_runtime import load

PROMPT: Final = 20
TEMPERATURE: Final = 0.8
FLOOR: Final = f"{BoundMinimal.name}, a lean loop"
NAIVE: Final = "session.run, softmax, np.random.choice"
TORCH: Final = "PyTorch nn.*, softmax, multinomial"

Write = Callable[[float, int], Sequence[int]]  # the temperature (0: the likeliest each time) and how many → the tokens


def ours(subject: Subject) -> Write:
    """`Stream.generate`, a new stream for each text."""
    model, alphabet = load(subject.path), subject.size.alphabet
    prompt = "".join(alphabet[token] for token in prompt_of(subject.size))

    def write(temperature: float, count: int) -> Any:
        return "".join(model.stream().generate(prompt, count, temperature=temperature, seed=0))

    return lambda temperature, count: [alphabet.index(symbol) for symbol in write(temperature, count)]


def naive(subject: Subject) -> Write:
    """The loop that people write around `session.run`."""
    session, size = session_of(subject.exported), subject.size
    name, *carried = [port.name for port in session.get_inputs()]
    prompt = prompt_of(size)[None]

    def write(temperature: float, count: int) -> list[int]:
        states = dict(zip(carried, subject.zeros(1), strict=True))
        given, found = prompt, []
        for _ in range(count):
            logits, *following = session.run(None, {name: given, **states})
            states = dict(zip(carried, following, strict=True))
            last = logits[0, -1]
            if temperature:
                weights = np.exp((last - last.max()) / temperature)
                token = int(np.random.choice(size.vocabulary, p=weights / weights.sum()))  # noqa: NPY002
            else:
                token = int(last.argmax())
            found.append(token)
            given = np.array([[token]])
        return found

    return write


def eager(subject: Subject) -> Write:
    """The loop that people write around the module."""
    one_thread()
    net = subject.size.module()
    prompt = torch.from_numpy(prompt_of(subject.size))[None]

    def write(temperature: float, count: int) -> list[int]:
        hidden: Any = None
        given, found = prompt, []
        with torch.inference_mode():
            for _ in range(count):
                logits, hidden = net.carried(given, hidden)
                last = logits[0, -1]
                token = torch.multinomial(torch.softmax(last / temperature, -1), 1) if temperature else last.argmax()[None]
                found.append(int(token))
                given = token[None]
        return found

    return write


def lean(peer: Peer) -> Callable[[Subject], Write]:
    """The leanest loop that can be written around a peer's step: one draw of Gumbel noise for the whole text, then arg max."""

    def of(subject: Subject) -> Write:
        prompt, vocabulary = prompt_of(subject.size), subject.size.vocabulary

        def write(temperature: float, count: int) -> list[int]:
            step = steps[0]
            noise = np.zeros((count, vocabulary), np.float32)
            if temperature:
                noise = temperature * np.random.default_rng(0).gumbel(size=(count, vocabulary)).astype(np.float32)
            for token in prompt:
                given[0] = token
                logits = step(given)
            found = []
            for drawn in noise:
                token = (logits[0] + drawn).argmax()
                found.append(int(token))
                given[0] = token
                logits = step(given)
            return found

        given = np.zeros(1, np.int64)
        steps = [peer.step(subject, 1)]
        return write

    return of


def prompt_of(size: Size) -> Any:
    return size.tokens(PROMPT)


def contenders() -> dict[str, tuple[Callable[[Subject], Write], str | None]]:
    """By name: how a text is written, and why it cannot be."""
    by_transformers = Transformers()
    found: dict[str, tuple[Callable[[Subject], Write], str | None]] = {Ours.name: (ours, None)}
    for peer in (BoundMinimal(), LiteRt(), Numpy()):
        found[f"{peer.name}, a lean loop"] = lean(peer), peer.unavailable()
    found[NAIVE] = naive, None
    found[TORCH] = eager, None
    found[Transformers.name] = lambda of: by_transformers.write(of, prompt_of(of.size)), by_transformers.unavailable()
    return found


class Figures(msgspec.Struct, frozen=True):
    """A heat for each model, by its name; for one character."""

    heats: dict[str, Heat]
    characters: int


def measure(setting: Setting) -> Figures:
    characters = setting.of(500, 100, 10)
    sizes = setting.of((LSTM_1x20, LSTM_2x128, GRU_2x256), (LSTM_1x20, LSTM_2x128), (LSTM_1x20,))
    return Figures({size.name: _heat(setting.subject(size), characters, setting.of(12, 2, 0.1)) for size in sizes}, characters)


def _heat(subject: Subject, characters: int, seconds: float) -> Heat:
    wanted = list(eager(subject)(0, characters))
    contest = Contest()
    for name, (of, why) in contenders().items():

        def build(of: Callable[[Subject], Write] = of, why: str | None = why) -> tuple[Callable[[], object], float]:
            if why is not None:
                raise NotApplicableError(why)
            write = of(subject)
            wrong = sum(a != b for a, b in zip(write(0, characters), wanted, strict=True))
            return (lambda: write(TEMPERATURE, characters)), wrong

        contest.enter(name, build, 0, characters)
    return contest.run(seconds)


def page(figures: Figures) -> str:
    return (
        f"Microseconds per character of {figures.characters} sampled behind a prompt of {PROMPT} at temperature {TEMPERATURE}; in "
        "brackets how many times as long as rnnx. Before the time is taken, all write the same text at temperature 0. A *lean loop* draws one "
        "block of Gumbel noise for the whole text and takes the arg max: the least that sampling costs, with nothing that "
        "`generate` has (stop strings, checkpoints, log-probabilities, top-k, ...).\n\n"
        + heats_table(figures.heats)
        + skipped(figures.heats)
    )


def targets(figures: Figures) -> Sequence[Target]:
    found = []
    for size, limit in ((LSTM_1x20, 3), (LSTM_2x128, 2.2)):
        if (heat := figures.heats.get(size.name)) is not None:
            found.append(
                Target(
                    f"generation over the usual loop, {size.name}", limit, True, heat.ratio(NAIVE), heat.ratio(NAIVE, FLOOR)
                )
            )
            found.append(
                Target(f"generation over transformers' `generate`, {size.name}", 12, True, heat.ratio(Transformers.name))
            )
    return found


QUESTION: Final = Question("generation", "How long does a sampled character take?", Figures, measure, page, targets)

if __name__ == "__main__":
    QUESTION.main()
