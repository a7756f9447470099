"""Trials: a model is run at a few small sizes, to see whether it does what it declares.

A graph that the runtime's preflight lets through is run here; any other in a process of its own, for ONNX Runtime ends the
process or does not come back on some.
"""

import os
import signal
import subprocess
import sys
from typing import Final

import msgspec

_TIMEOUT: Final = 60.0  # seconds for a process of its own

Sizes = dict[str, int]


class TrialInput(msgspec.Struct, frozen=True):
    """How to make one input.

    Attributes:
        dtype: numpy's name of it.
        shape: sizes, symbols, and products of them, `batch*seq_len`.
        below: integers are drawn from 0 up to here, not included.
        value: what all elements are, where they are not drawn; "time": the size of the time axis.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    below: int = 2
    value: int | str | None = None


class Plan(msgspec.Struct, frozen=True):
    """What to run.

    Attributes:
        batch, time: the symbols of these axes; None where they are not known or not free.
        pairs: states, by input and output.
        hints: sizes that stand in the graph, which it may have been frozen to.
    """

    inputs: tuple[TrialInput, ...]
    outputs: tuple[str, ...]
    batch: str | None = None
    time: str | None = None
    pairs: tuple[tuple[str, str], ...] = ()
    hints: tuple[int, ...] = ()


class Run(msgspec.Struct, frozen=True):
    """One run at certain sizes: the outputs' shapes, or why it failed."""

    sizes: Sizes
    shapes: dict[str, tuple[int, ...]] = {}
    failed_because: str | None = None


class Trials(msgspec.Struct):
    """What the runs showed. Differences are relative to the largest value, where that is above 1.

    Attributes:
        died_because: the process ended in the middle, and nothing else is known.
        refused_because: ONNX Runtime does not load the model.
        runs: the first is one that worked, if any did.
        frozen: a free axis with the one size that it takes.
        refused: sizes that failed, where others of the axis worked, with what was said, by axis.
        repeated: how far a second call with the same inputs was from the first, by output.
        idle: inputs whose values change no output.
        unchanged: states that came out exactly as they went in.
        idle_steps: a number of steps whose second half changes no output.
        rows: how far the first row moved when the others were given other values, by output.
        unfit: states that came out in another type or shape than they went in: both, in words.
        not_fed_because: feeding the states back failed.
        steps: how far two chunks, with states fed back, were from the whole, by output.
    """

    died_because: str | None = None
    refused_because: str | None = None
    runs: list[Run] = []
    frozen: dict[str, int] = {}
    refused: dict[str, dict[int, str]] = {}
    repeated: dict[str, float] = {}
    idle: list[str] = []
    unchanged: list[str] = []
    idle_steps: int | None = None
    rows: dict[str, float] = {}
    unfit: dict[str, tuple[str, str]] = {}
    not_fed_because: str | None = None
    steps: dict[str, float] = {}

    @property
    def worked(self) -> list[Run]:
        return [run for run in self.runs if run.failed_because is None]


def run_here(source: bytes | str, plan: Plan) -> Trials:
    """Run a model, by its bytes or its path, in this process."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # as rnnx_runtime does, which need not be imported by then
    import onnxruntime

    from rnnx._lint.bench import Bench, words

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    settings.log_severity_level = 4  # fatal: errors come as exceptions
    settings.add_session_config_entry("session.load_model_format", "ONNX")
    try:
        session = onnxruntime.InferenceSession(source, settings, providers=["CPUExecutionProvider"], enable_fallback=0)
    except Exception as error:  # ONNX Runtime's exceptions have no base of their own
        return Trials(refused_because=words(error))
    return Bench(session, plan).trials()


def run_apart(source: bytes | str, plan: Plan) -> Trials:
    """The same, in a process of its own, with bounded time and memory."""
    kind, content = ("bytes", source) if isinstance(source, bytes) else ("path", os.fsencode(source))
    command = [sys.executable, "-P", "-m", "rnnx._lint.apart", kind]
    given = msgspec.json.encode(plan) + b"\n" + content
    try:
        done = subprocess.run(command, input=given, capture_output=True, timeout=_TIMEOUT, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        return Trials(died_because=f"it did not come to an end in {_TIMEOUT:.0f} seconds")
    if done.returncode < 0:
        return Trials(died_because=f"ONNX Runtime ended the process ({signal.Signals(-done.returncode).name})")
    try:
        return msgspec.msgpack.decode(done.stdout, type=Trials)
    except msgspec.DecodeError:
        return Trials(died_because=f"the process ended with exit code {done.returncode}")
