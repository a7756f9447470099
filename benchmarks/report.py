"""The page made of a run's figures: `python -m benchmarks.report` writes docs/benchmarks.md and its charts anew from results.json.

`python -m benchmarks.report build/benchmarks/results.json` writes those of another run, beside its results.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.charts import draw
from benchmarks.peers import ALL, BoundExported, BoundMinimal, Cells, Eager, Ours
from benchmarks.question import Target
from benchmarks.results import QUESTIONS, Results, question, read
from benchmarks.tables import figure, table

ROOT: Final = Path(__file__).parent.parent
RESULTS: Final = ROOT / "benchmarks" / "results.json"
PAGE: Final = ROOT / "docs" / "benchmarks.md"

_METHOD: Final = """\
- **The same work.** Everybody runs the same weights: Embedding → `nn.RNN`, `nn.LSTM` or `nn.GRU` → Linear, batch-first, float32. What a contender
  answers to tokens that differ from step to step, with the state carried, is compared with eager PyTorch before it is timed; one that is off
  by more than 1e-5 is not timed, and named. Where it is off by less, the page says by how much.
- **By turns.** The machine's speed drifts by half within minutes, so contenders have a turn of 10 ms each in every round, in an order that is
  shuffled each time. A ratio is to rnnx, the median over the rounds of the ratio of two medians of one round; one of two others is the
  quotient of theirs. Ratios travel; microseconds are this machine's: rnnx's own median over all calls, and that times the ratio for the
  others. The questions of growth and threads compare medians over all calls.
- **One thread, one core.** The process is pinned to one core, every library is told to use one thread, and none that spins. Garbage is
  collected between measurements, not during them. Only the question of threads is asked without a pin.
- **The best form of each.** ONNX Runtime: as people write it (`session.run` with a dict), and the least that it can cost, bindings made once over
  two sets of states that alternate, on the smallest graph that can be written by hand (Gather, one recurrent node per layer,
  Squeeze, MatMul, Add; time-major). OpenVINO: static shapes, an asynchronous request, tensors shared with numpy, float32 asked for (its default
  here computes in bfloat16). LiteRT: a graph of elementary operations per step, made by hand with its schema, as its converter writes it. tract:
  shapes made static, states as its own tensors. ncnn: its own layers. PyTorch: `nn.*`; cells, its fastest way to take
  single steps and so the fair baseline; TorchScript, traced and frozen.
- **What the bindings leave out** is what makes a step safe: they check nothing, and answer with an array that the next call overwrites. `Stream.step`
  checks its input, and answers with the caller's own array.
- **Fresh processes** for what happens once: imports, loading, memory.
"""


def main() -> None:
    """Write the page and its charts from the results that are kept."""
    if len(sys.argv) > 1:
        write_report(read(Path(sys.argv[1])), Path(sys.argv[1]).with_name("benchmarks.md"))
    else:
        write_report(read(RESULTS), PAGE)


def write_report(results: Results, page: Path) -> None:
    """The page, and its charts in `images/` beside it."""
    images = page.parent / "images"
    images.mkdir(parents=True, exist_ok=True)
    charts = draw(results, images)
    page.write_text(report(results, charts), encoding="utf-8")


def report(results: Results, charts: dict[str, str]) -> str:
    """Markdown.

    Args:
        charts: by question, the name of the picture in `images/`.
    """
    versions = ", ".join(f"{name} {number}" for name, number in results.versions.items())
    parts = [
        "# Benchmarks",
        "Made by `make bench` (`benchmarks/`, one question per file); all figures are in `benchmarks/results.json`."
        + ("" if results.effort == "full" else f" **A {results.effort} run: not figures to report.**"),
        f"{results.date} UTC · {results.processor}, {results.cores} cores, one of them used but for threads · {versions}",
        "## In short",
        _in_short(results),
        "## Targets",
        _targets(results),
    ]
    for name in QUESTIONS:
        if name in results.figures:
            asked = question(name)
            parts.append(f"## {asked.text}")
            if name in charts:
                parts.append(f"![{asked.text}](images/{charts[name]})")
            parts.append(asked.page(results.figures[name]).strip())
    if results.failed:
        parts += ["## What failed", "\n".join(f"- {name}: {why}" for name, why in results.failed.items())]
    parts += ["## How it is measured", _METHOD.strip()]
    return re.sub("\n{3,}", "\n\n", "\n\n".join(parts)) + "\n"


def _in_short(results: Results) -> str:
    """What a step of each model takes, beside those that people ask for, and the best other."""
    if "step" not in results.figures:
        return ""
    named = {BoundMinimal.name, BoundExported.name, Ours.name}
    rows = []
    for model, heat in results.figures["step"].heats.items():
        best = heat.best(peer.name for peer in ALL if peer.name not in named)
        rows.append(
            [
                model,
                f"{figure(heat.entries[Ours.name].us)} µs",
                *(_times(heat.ratio(name)) for name in (BoundMinimal.name, "session.run", Cells.name, Eager.name)),
                "" if best is None else f"{best} {_times(heat.ratio(best))}",
            ]
        )
    header = ["one step", "rnnx", "the engine's floor", "session.run", "PyTorch cells", "PyTorch nn.*", "the fastest other"]
    return "How many times as long as rnnx the others take for one step of one stream; below 1 they are faster.\n\n" + table(
        header, rows
    )


def _times(ratio: float | None) -> str:
    return "–" if ratio is None else f"{ratio:.2f}×"


def _targets(results: Results) -> str:
    found: Sequence[Target] = [
        target for name in QUESTIONS if name in results.figures for target in question(name).targets(results.figures[name])
    ]
    met = sum(target.met is True for target in found)
    rows = [
        [
            target.what,
            f"{'≥' if target.at_least else '≤'} {figure(target.limit)}",
            figure(target.found),
            "" if target.floor is None else figure(target.floor),
            _verdict(target),
        ]
        for target in found
    ]
    floor = (
        "Where a figure stands under *the bare engine*, it is what bare bindings on the minimal graph come to in rnnx's place."
    )
    return f"{met} of {len(found)} met. {floor}\n\n" + table(["", "to reach", "measured", "the bare engine", ""], rows)


def _verdict(target: Target) -> str:
    if target.found is None:
        return "not measured"
    if target.met:
        return "met"
    gap = (target.limit / target.found if target.at_least else target.found / target.limit) - 1
    return f"**missed by {gap:.0%}**" if gap >= 0.01 else "**missed by less than 1%**"


if __name__ == "__main__":
    main()
