"""F13: an execution provider that is unknown, missing, wrongly asked for, dies or computes something else."""

import asyncio
import builtins
import random
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as core
from tests.faults.harness import WELL, Fault, Kind, Limits, Tally, WrongAnswerError, attempt
from tests.runtime.answers import CLOSE, named, sample

from rnnx_runtime import ExecutionError, Generation, Model, Pool, ProviderError, RnnxError, SelfTest, list_providers, load
from rnnx_runtime import selftest as run_selftest
from rnnx_runtime._providers import PROVIDERS, Availability, Node, find_provider

GOLDEN: Final = Path(__file__).parent.parent / "golden"
NAMES: Final = ("char_rnn", "lstm", "gru")
LIMITS: Final = Limits(seconds=30, memory=None)  # a plugin maps gigabytes
FAKE: Final = "migraphx"  # here nowhere where these tests run
LAZY: Final = (Generation, Pool, SelfTest, list_providers)  # imported here and not in each child

DEATHS: Final = (core.EPFail, core.Fail, core.RuntimeException, RuntimeError, ValueError, SystemError, OSError, MemoryError)
ASKED: Final[tuple[Any, ...]] = (
    *("", "CPU", "Cpu", " cpu", "cpu ", "gpu", "CUDA", "CPUExecutionProvider", "CUDAExecutionProvider", "\0", "\x1b[2J", "é"),
    *(["cpu", "cpu"], ["openvino", "openvino", "cpu"], ["cpu", "auto"], ["auto", "auto"], ["cpu", "openvino"], [], {}, [[]]),
    *(None, 3, b"cpu", [None], [b"cpu"], {3: {}}, {"cpu": None}, {"cpu": {"threads": 1}}, {"auto": {"device_id": 0}}),
    *({"openvino": {"device": "CPU"}}, {"openvino": {"device": "tpu"}}, {"openvino": {"precision": ["f32"]}}),
    *(
        {"openvino": {"load_config": "{}"}},
        {"cuda": {"device_id": -1}},
        {"cuda": {"device_id": "²"}},
        {"cuda": {"use_tf32": 2}},
    ),
    *({"cuda": {"device_id": 1.5}}, {"cuda": {"device_id": None}}, {"cuda": {"user_compute_stream": 1}}, {"cuda": [("a", 1)]}),
)
MISSING: Final = ("cuda", "tensorrt", "webgpu", "migraphx", "qnn", "coreml", "directml", "xnnpack")


class Case(NamedTuple):
    name: str
    body: Callable[[], None]
    wanted: tuple[Kind, ...]


def run(count: int, seed: int) -> Tally:
    tally = Tally()
    second = _openvino()
    cases = list(_cases(second))
    random.Random(seed).shuffle(cases)
    for case in cases[:count]:
        tally.add(case.name, attempt(partial(_alone, case.body), LIMITS), case.wanted)
    tally.figures["a second provider"] = "openvino" if second else "none on this machine"
    return tally


def _openvino() -> bool:
    """Whether this machine has it; asked in a child, which may register its plugin."""

    def look() -> None:
        if not find_provider("openvino").here:
            raise ProviderError("no openvino")

    return attempt(look, LIMITS).kind == "correct"


def _cases(second: bool) -> Iterator[Case]:
    for asked, strict in product(ASKED, (True, False)):
        yield Case(f"{asked!r} asked for", partial(_refused, asked, strict), ("error",))
    for name in MISSING:
        for model in NAMES:
            yield Case(f"{name} missing", partial(_refused, name, True), ("error",))
            yield Case(f"{name} missing, allowed", partial(_falls_back, model, [name]), ("correct",))
            yield Case(f"{name} missing, cpu behind", partial(_refused, [name, "cpu"], True), ("error",))
    granted = [FAKE, *["openvino"] * second]
    for name, model, death in product(granted, NAMES, DEATHS):
        yield Case(f"{name} dies at the start with {death.__name__}", partial(_dies_at_start, name, model, death), ("error",))
        yield Case(f"{name} dies at the start, allowed", partial(_dies_allowed, name, model, death), ("correct",))
    for name, model, use, after in product([*granted, "cpu"], NAMES, USES, range(3)):
        if model == "char_rnn" or use not in WRITING:
            for death in (core.EPFail, RuntimeError) if after else DEATHS:
                said = f"{name} dies in {use}, call {after}, with {death.__name__}"
                yield Case(said, partial(_dies_running, name, model, use, after, death), WELL if after else ("error",))
    for name, model in product(granted, NAMES):
        yield Case(f"{name} computes wrongly", partial(_wrong, name, model), ("error",))
        yield Case(f"{name} computes wrongly, allowed", partial(_wrong, name, model, False), ("error",))
        yield Case(f"{name} computes wrongly, self-test", partial(_wrong_selftest, name, model), ("correct",))
        yield Case(f"{name} computes wrongly, auto", partial(_wrong_auto, name, model), ("correct",))
        yield Case(f"{name} is right", partial(_right, name, model), ("correct",))
    if second:
        for device in ("gpu", "npu"):
            asked = {"openvino": {"device": device}}
            yield Case(f"openvino without {device}", partial(_refused, asked, True), ("error",))
            yield Case(f"openvino without {device}, allowed", partial(_falls_back, "lstm", asked), ("correct",))
        yield Case("openvino cannot list its devices", partial(_cannot_list, "lstm"), ("error",))


def _alone(body: Callable[[], None]) -> None:
    """Nothing is printed, and nobody warned: what is wrong is an exception, or stands in the placement."""

    def printed(*words: object, **_: object) -> NoReturn:
        raise WrongAnswerError(f"printed: {words}")

    builtins.print = printed
    warnings.simplefilter("error")
    body()


def _refused(asked: Any, strict: bool) -> None:
    load(GOLDEN / "lstm.onnx", providers=asked, strict=strict)


def _falls_back(name: str, asked: Any) -> None:
    model = load(GOLDEN / f"{name}.onnx", providers=asked, strict=False)
    placement = model.placement
    if placement.granted != ("cpu",) or placement.requested != tuple(asked) or placement.fell_back != placement.nodes:
        raise WrongAnswerError(f"the placement is {placement}")
    _check_answers(model)


def _dies_at_start(name: str, model: str, death: type[Exception]) -> None:
    _pretend(name)
    _break_creation(name, death)
    _load_refused(model, name)


def _dies_allowed(name: str, model: str, death: type[Exception]) -> None:
    _pretend(name)
    _break_creation(name, death)
    loaded = load(GOLDEN / f"{model}.onnx", providers=name, strict=False)
    placement = loaded.placement
    if placement.granted != ("cpu",) or not placement.fell_back or name not in placement.because:
        raise WrongAnswerError(f"the placement is {placement}")
    _check_answers(loaded)


def _dies_running(name: str, model: str, use: str, after: int, death: type[Exception]) -> None:
    """It works, dies at one of the calls, and works again: the stream is where it was before that call."""
    _pretend(name)
    calls, done = _Calls(), []
    loaded, twin = (load(GOLDEN / f"{model}.onnx", providers=name) for _ in range(2))
    live, other = USES[use](loaded), USES[use](twin)
    for turn in range(4):
        wanted = next(other)
        before = live.bits()
        calls.fail_at(after if turn == 1 else None, death)
        try:
            done.append(next(live))
        except RnnxError as error:
            failed = error
            if live.bits() != before:
                raise WrongAnswerError("the state is another one after the failure") from None
            calls.fail_at(None, death)
            done.append(next(live))
        if not _same(done[-1], wanted):
            raise WrongAnswerError(f"turn {turn}: another answer than where nothing failed")
    if calls.failed == 0:
        if after == 0:
            raise WrongAnswerError("nothing was called")
        return  # it takes fewer calls than that
    if loaded.placement.granted != (name,):
        raise WrongAnswerError(f"the placement is {loaded.placement}")
    if type(failed) is not (ExecutionError if name == "cpu" else ProviderError):
        raise WrongAnswerError(f"{type(failed).__name__}: {failed}")
    raise failed


def _wrong(name: str, model: str, strict: bool = True) -> None:
    _pretend(name)
    _Calls().spoil()
    _load_refused(model, name, strict=strict)


def _wrong_selftest(name: str, model: str) -> None:
    _pretend(name)
    _Calls().spoil()
    found = run_selftest(GOLDEN / f"{model}.onnx", providers=name)
    if found.passed or found.placement.granted != (name,):
        raise WrongAnswerError(str(found))


def _wrong_auto(name: str, model: str) -> None:
    """Only this one is wrong: `auto` takes another, and says why."""
    _pretend(name)
    _Calls().spoil(only=True)
    placement = load(GOLDEN / f"{model}.onnx", providers="auto").placement
    if name in placement.granted:
        raise WrongAnswerError(str(placement))


def _right(name: str, model: str) -> None:
    _pretend(name)
    loaded = load(GOLDEN / f"{model}.onnx", providers=name)
    if loaded.placement.granted != (name,):
        raise WrongAnswerError(str(loaded.placement))
    _check_answers(loaded)


def _cannot_list(model: str) -> None:
    def fail() -> NoReturn:
        raise RuntimeError("no driver\nand more")

    onnxruntime.get_ep_devices = fail
    _load_refused(model, "openvino")


def _load_refused(model: str, name: str, *, strict: bool = True) -> None:
    try:
        load(GOLDEN / f"{model}.onnx", providers=name, strict=strict)
    except ProviderError as error:
        if name not in str(error):
            raise WrongAnswerError(f"it does not say which: {error}") from None
        raise


def _check_answers(model: Model) -> None:
    """As the CPU answers."""
    cpu, xs = load(str(model._source)), sample(model, 2, 7)
    found, wanted = (named(one, one.run(xs)[0]) for one in (model, cpu))
    for key, array in wanted.items():
        if not np.allclose(found[key], array, rtol=1e-4, atol=1e-5):
            raise WrongAnswerError(f"{key} is off by {np.abs(found[key] - array).max()}")


class _Live:
    """Turns of one way to use a model, and the state that they leave."""

    def __init__(self, model: Model) -> None:
        self.model, self.stream, self.pool = model, model.stream(), model.pool()
        self.xs, self.turn = sample(model, 1, 6000, seed=5), 0

    def __next__(self) -> Any:
        answer = self.act(self.xs[:, self.turn * 1400 :])
        self.turn += 1
        return answer

    def act(self, x: Any) -> Any:
        raise NotImplementedError

    def bits(self) -> list[bytes]:
        return [self.stream.state.to_bytes(), *(self.pool.state(key).to_bytes() for key in self.pool)]


class _Step(_Live):
    def act(self, x: Any) -> Any:
        return self.stream.step(x[:, 0])


class _Feed(_Live):
    def act(self, x: Any) -> Any:
        return self.stream.feed(x[:, :5])


class _Long(_Live):
    def act(self, x: Any) -> Any:
        return self.stream.feed(x[:, :1300])


class _AStep(_Live):
    def act(self, x: Any) -> Any:
        return asyncio.run(self.stream.astep(x[:, 0]))


class _PoolStep(_Live):
    def act(self, x: Any) -> Any:
        return self.pool.step({key: x[0, key] for key in range(2 + self.turn)})


class _PoolFeed(_Live):
    def act(self, x: Any) -> Any:
        return self.pool.feed({key: x[0, : 3 + key] for key in range(2 + self.turn)})


class _Submit(_Live):
    def act(self, x: Any) -> Any:
        return self.pool.submit(0, x[0, 0]).result(20)


class _Run(_Live):
    def act(self, x: Any) -> Any:
        return self.model.run(x[:, :1300])[0]


class _Generate(_Live):
    writing: Any = None

    def act(self, x: Any) -> Any:
        self.writing = self.writing or self.start()
        return next(self.writing)

    def start(self) -> Any:
        return self.stream.generate("hell", 50, seed=3)


class _PoolGenerate(_Generate):
    def start(self) -> Any:
        return self.pool.generate("a", "hell", 50, seed=3)


USES: Final[dict[str, type[_Live]]] = {
    "step": _Step,
    "feed": _Feed,
    "a long feed": _Long,
    "astep": _AStep,
    "pool.step": _PoolStep,
    "pool.feed": _PoolFeed,
    "pool.submit": _Submit,
    "run": _Run,
    "generate": _Generate,
    "pool.generate": _PoolGenerate,
}
WRITING: Final = ("generate", "pool.generate")


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    return one == other if isinstance(one, str) else np.allclose(one, other, **CLOSE)


class _Calls:
    """ONNX Runtime's own calls, below all of its Python: one may fail, or all may answer wrongly."""

    failed = 0

    def __init__(self) -> None:
        """From here on; a prepared call of before is as it was."""
        self._left: int | None = None
        self._death: type[Exception] = Exception
        self._plain, bound = core.InferenceSession.run, core.InferenceSession.run_with_iobinding
        core.InferenceSession.run = lambda *args: self._count() or self._plain(*args)
        core.InferenceSession.run_with_iobinding = lambda *args: self._count() or bound(*args)

    def fail_at(self, number: int | None, death: type[Exception]) -> None:
        self._left, self._death = number, death

    def _count(self) -> None:
        if self._left is not None:
            self._left -= 1
            if self._left < 0:
                self.failed += 1
                raise self._death("the device was lost\nand more")

    def spoil(self, *, only: bool = False) -> None:
        """All answers are off by a hundredth; `only` those of a session with another provider than the CPU's."""

        def plain(session: Any, *args: Any) -> Any:
            found = self._plain(session, *args)
            if only and session not in OTHERS:
                return found
            return [found[0] + np.float32(0.01), *found[1:]]

        core.InferenceSession.run = plain


OTHERS: Final[list[Any]] = []  # sessions with another provider than the CPU's
ASKING: Final[list[str]] = []  # for one, until it is made


def _pretend(name: str) -> None:
    """This machine has the provider, and it takes every node; where it is really here, it does."""
    import rnnx_runtime._session as here
    import rnnx_runtime._trials as trials

    select, add_to, placed = here.select, here.add_to, here.placed
    granted = here.PROVIDERS[name].ort

    def remembering(session: Any) -> tuple[Node, ...]:
        nodes = placed(session)
        others = name != "cpu" and (name in ASKING or any(node.provider == name for node in nodes))
        ASKING.clear()
        if not others:
            return nodes
        OTHERS.append(session._sess)
        return tuple(Node(node.name, node.operator, name) for node in nodes)

    here.placed = remembering
    if name != FAKE:
        return
    there = Availability(PROVIDERS[name], True, "")

    def find(wanted: str) -> Availability:
        return there if wanted == name else find_provider(wanted)

    def adding(options: Any, found: Availability, given: Any, threads: int) -> None:
        if found is there:
            ASKING.append(name)
        else:
            add_to(options, found, given, threads)

    providers = onnxruntime.InferenceSession.get_providers
    here.select = lambda requested, strict: select(requested, strict, find)
    here.add_to = adding
    trials.find_provider = find
    onnxruntime.InferenceSession.get_providers = lambda self: [*[granted] * (self._sess in OTHERS), *providers(self)]


def _break_creation(name: str, death: type[Exception]) -> None:
    """ONNX Runtime cannot make a session with this provider."""
    import rnnx_runtime._session as here

    add_to, create, asked = here.add_to, onnxruntime.InferenceSession._create_inference_session, []

    def adding(options: Any, found: Availability, *rest: Any) -> None:
        asked.extend([found] * (found.provider.name == name))
        add_to(options, found, *rest)

    def creating(self: Any, *rest: Any) -> Any:
        self._fallback_providers = ["CPUExecutionProvider"]
        if asked:
            asked.clear()
            ASKING.clear()
            raise death("no such device\nand more")
        return create(self, *rest)

    here.add_to, onnxruntime.InferenceSession._create_inference_session = adding, creating


FAULT: Final = Fault(
    "F13",
    "execution providers",
    "What is unknown, missing, wrongly asked for, dies or computes something else is a ProviderError, and where that was allowed, "
    "the CPU answers and the placement says so; the state is bit for bit as before, and nothing is printed.",
    full=1_000,
    reduced=120,
    run=run,
)
