"""How long does a fresh process take to its first answer, and how much memory does it need?

Each contender is a small program of its own, run again and again by turns; the page cache is warm. The peak is VmHWM, which a child does not
inherit; `ru_maxrss` it would.
"""

import importlib.util
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import torch

from benchmarks.models import LSTM_1x1024, LSTM_2x128, Size
from benchmarks.peers import Subject
from benchmarks.question import Question, Setting, Target
from benchmarks.tables import figure, table

# Three parts: what is imported, how the model is loaded, and how it takes its first step. `path` is the file without an ending.
_SESSION: Final = """
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(path + "{ending}", options, providers=["CPUExecutionProvider"])
"""
_RUN: Final = """
feeds = {i.name: np.zeros([d if isinstance(d, int) else 1 for d in i.shape], np.int64 if "int" in i.type else np.float32)
         for i in session.get_inputs()}
session.run(None, feeds)
"""
_NET: Final = "net = Net(Size{size}); net.load_state_dict(torch.load(path + '.weights.pt', weights_only=True)); net.eval(); torch.set_num_threads(1)"

_BARE: Final = "onnxruntime, our graph"

PROGRAMS: Final[dict[str, tuple[str, str, str, str]]] = {  # the package that it needs, and the three parts
    "bare Python": ("", "pass", "pass", "pass"),
    "numpy, nothing else": ("numpy", "import numpy as np", "pass", "pass"),
    "rnnx": (
        "rnnx_runtime",
        "import numpy as np\nfrom rnnx_runtime import load",
        "model = load(path + '.onnx')",
        "model.stream().step(np.zeros(1, np.int64))",
    ),
    _BARE: ("onnxruntime", "import numpy as np, onnxruntime", _SESSION.format(ending=".onnx"), _RUN),
    "onnxruntime, minimal graph": (
        "onnxruntime",
        "import numpy as np, onnxruntime",
        _SESSION.format(ending=".minimal.onnx"),
        _RUN,
    ),
    "LiteRT": (
        "ai_edge_litert",
        "import numpy as np\nfrom ai_edge_litert.interpreter import Interpreter",
        "model = Interpreter(path + '.tflite', num_threads=1)\nmodel.allocate_tensors()",
        "for i in model.get_input_details(): model.set_tensor(i['index'], np.zeros(i['shape'], i['dtype']))\n"
        "model.invoke()\nmodel.get_tensor(model.get_output_details()[0]['index'])",
    ),
    "tract": (
        "tract",
        "import numpy as np, tract",
        "model = tract.onnx().load(path + '.minimal.onnx')\nmodel.set_input_fact(0, '1,1,i64')\n"
        "for i in range({states}): model.set_input_fact(i + 1, '1,1,{hidden},f32')\nmodel = model.into_model().into_runnable()",
        "model.run([np.zeros((1, 1), np.int64)] + [np.zeros((1, 1, {hidden}), np.float32)] * {states})[0].to_numpy()",
    ),
    "OpenVINO": (
        "openvino",
        "import numpy as np, openvino",
        "core = openvino.Core()\nmodel = core.read_model(path + '.minimal.onnx')\n"
        "model.reshape({{i.any_name: [1, 1] if 'tokens' in i.names else [1, 1, {hidden}] for i in model.inputs}})\n"
        "request = core.compile_model(model, 'CPU', {{'INFERENCE_PRECISION_HINT': 'f32', 'INFERENCE_NUM_THREADS': 1}})"
        ".create_infer_request()",
        "for i in request.model_inputs: request.get_tensor(i).data[...] = 0\nrequest.infer()\nrequest.get_output_tensor(0).data",
    ),
    "PyTorch": (
        "torch",
        "import torch\nfrom benchmarks.models import Net, Size",
        _NET.replace("{size}", "({kind!r}, {vocabulary}, {embedding}, {hidden}, {layers})"),
        "with torch.inference_mode(): net(torch.zeros(1, 1, dtype=torch.long)).numpy()",
    ),
    "TorchScript": (
        "torch",
        "import torch",
        "net = torch.jit.load(path + '.ts'); torch.set_num_threads(1)",
        "with torch.inference_mode(): net(torch.zeros(1, 1, dtype=torch.long)).numpy()",
    ),
    "import onnxruntime": ("onnxruntime", "import onnxruntime", "pass", "pass"),
    "import rnnx_runtime, onnxruntime": ("rnnx_runtime", "import rnnx_runtime, onnxruntime", "pass", "pass"),
}
_FRAME: Final = """
import sys, time, warnings
warnings.simplefilter("ignore")
path, clock = sys.argv[1], time.perf_counter
begin = clock()
{0}
imported = clock()
{1}
loaded = clock()
{2}
answered = clock()
peak = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
print((imported - begin) * 1e3, (loaded - imported) * 1e3, (answered - loaded) * 1e3, int(peak[0]) / 1024 if peak else 0)
"""


class Start(msgspec.Struct, frozen=True):
    """Medians: milliseconds of the whole process and of its parts, and MiB at the most."""

    whole: float
    imports: float
    load: float
    first: float
    peak: float
    ratio: float  # of imports, load and first answer together, to those of bare onnxruntime in the same turn


class Figures(msgspec.Struct, frozen=True):
    """By model and contender."""

    starts: dict[str, dict[str, Start]]
    skipped: dict[str, str]
    processes: int


def measure(setting: Setting) -> Figures:
    processes, heavy = setting.of((15, 4), (4, 1), (1, 0))
    found, skipped = {}, {}
    for size in setting.of((LSTM_2x128, LSTM_1x1024), (LSTM_2x128,), (LSTM_2x128,)):
        path = _written(setting.subject(size))
        programs, why = _programs(size)
        skipped.update(why)
        times: dict[str, list[list[float]]] = {}
        for turn in range(processes):
            for name in [one for one in programs if "torch" not in PROGRAMS[one][0] or turn < heavy]:
                try:
                    times.setdefault(name, []).append(_run(programs[name], path))
                except subprocess.CalledProcessError as error:
                    skipped[name] = (error.stderr.strip().splitlines() or ["failed"])[-1]
                    del programs[name], times[name]  # its other turns too: rows are compared turn by turn
        found[size.name] = {name: _start(rows, times.get(_BARE, [])) for name, rows in times.items()}
    return Figures(found, skipped, processes)


def _start(rows: list[list[float]], bare: list[list[float]]) -> Start:
    medians = [statistics.median(column) for column in zip(*rows, strict=True)]
    ratios = [sum(mine[1:4]) / sum(theirs[1:4]) for mine, theirs in zip(rows, bare, strict=False)]
    return Start(*(float(f"{value:.4g}") for value in (*medians, statistics.median(ratios) if ratios else 0)))


def _programs(size: Size) -> tuple[dict[str, str], dict[str, str]]:
    """The programs that can run here, and why others cannot."""
    values: dict[str, Any] = {**{name: getattr(size, name) for name in size.__dataclass_fields__}}
    values["states"] = size.layers * len(size.states)
    programs, skipped = {}, {}
    for name, (package, *parts) in PROGRAMS.items():
        if package and importlib.util.find_spec(package) is None:
            skipped[name] = f"{package} is not installed"
            continue
        formatted = [part.format(**values) if "{hidden}" in part or "{kind" in part else part for part in parts]
        programs[name] = _FRAME.format(*formatted)
    return programs, skipped


def _written(subject: Subject) -> Path:
    """All that the programs load, beside the artifact; the path without an ending."""
    path = subject.path.with_suffix("")
    path.with_suffix(".minimal.onnx").write_bytes(subject.minimal)
    module = subject.size.module()
    torch.save(module.state_dict(), path.with_suffix(".weights.pt"))
    _trace(module).save(path.with_suffix(".ts"))
    if importlib.util.find_spec("ai_edge_litert") is not None:
        from benchmarks.peers.tflite import step_graph

        path.with_suffix(".tflite").write_bytes(step_graph(subject.size, 1))
    return path


def _trace(module: Any) -> Any:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(module, (torch.zeros(1, 1, dtype=torch.long),))  # type: ignore[no-untyped-call]


def _run(program: str, path: Path) -> list[float]:
    # Modules are compiled once and kept, as those of an installed package are, whatever this shell says.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    begin = time.perf_counter()
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", program, str(path)],
        check=True,
        capture_output=True,
        text=True,
        env={**environment, "CI": "true"},
    )
    whole = (time.perf_counter() - begin) * 1e3
    imports, load, first, peak = map(float, done.stdout.split()[-4:])
    return [whole, imports, load, first, peak]


def page(figures: Figures) -> str:
    parts = [
        f"Medians of {figures.processes} fresh processes (fewer of torch's), by turns, milliseconds and MiB; the whole process includes the "
        "start and the end of Python. Everybody but bare Python imports numpy; rnnx imports onnxruntime when it loads a model, others beforehand.\n"
    ]
    for name, starts in figures.starts.items():
        rows = [
            [of, *(figure(value) for value in (one.whole, one.imports, one.load, one.first, one.ratio, one.peak))]
            for of, one in starts.items()
        ]
        parts.append(
            f"**{name}**\n\n"
            + table(
                ["", "whole process", "imports", "load", "first step", "the three, over bare onnxruntime", "peak memory, MiB"],
                rows,
            )
        )
    parts += [f"- {name}: {why}\n" for name, why in figures.skipped.items()]
    return "\n".join(parts)


def targets(figures: Figures) -> Sequence[Target]:
    found = []
    for name, starts in figures.starts.items():
        if {"rnnx", _BARE} <= starts.keys():
            what = f"cold start to the first answer over bare onnxruntime, {name}"
            found.append(Target(what, 1.15, False, starts["rnnx"].ratio))
        if {"import onnxruntime", "import rnnx_runtime, onnxruntime"} <= starts.keys():
            more = starts["import rnnx_runtime, onnxruntime"].imports - starts["import onnxruntime"].imports
            found.append(Target(f"importing rnnx_runtime beside onnxruntime, milliseconds more, {name}", 15, False, more))
    return found


QUESTION: Final = Question(
    "cold_start", "How long does a fresh process take to its first answer?", Figures, measure, page, targets
)

if __name__ == "__main__":
    QUESTION.main()
