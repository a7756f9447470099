"""The harness of the benchmarks in its smallest size: what it compares, whom it leaves out, what it writes. Nothing here judges a time."""

import subprocess
from pathlib import Path

import msgspec
import numpy as np
import pytest
from benchmarks import cold_start, heat, memory, report, results, step, streams
from benchmarks.graph import minimal
from benchmarks.heat import Contest, Entry, Heat, step_heat
from benchmarks.models import MODELS, GRU_2x256, LSTM_1x20, RNN_2x8, Size
from benchmarks.peers import (
    BoundExported,
    BoundMinimal,
    Cells,
    Eager,
    NotApplicableError,
    Numpy,
    Ours,
    Peer,
    SessionRun,
    Subject,
    TorchScript,
)
from benchmarks.question import Setting, Target

HERE = (
    Ours,
    BoundMinimal,
    BoundExported,
    SessionRun,
    Numpy,
    TorchScript,
    Cells,
    Eager,
)  # peers that need no more than the tests do
SMALL = [RNN_2x8, Size("LSTM", 7, 5, 6, 2), Size("GRU", 7, 5, 6, 2)]


@pytest.fixture(scope="session")
def setting(tmp_path_factory):
    return Setting("smoke", tmp_path_factory.mktemp("benchmarks"))


@pytest.mark.parametrize("size", SMALL, ids=lambda size: size.name)
@pytest.mark.parametrize("batch", [1, 3])
def test_every_peer_answers_as_eager_pytorch(setting, size, batch):
    found = step_heat([peer() for peer in HERE], setting.subject(size), batch, 0.01)
    assert list(found.entries) == [peer.name for peer in HERE]
    assert not found.skipped
    assert all(entry.difference <= 1e-5 for entry in found.entries.values())
    assert found.entries[Ours.name].ratio == 1


@pytest.mark.parametrize("size", SMALL, ids=lambda size: size.name)
def test_every_peer_answers_chunks_as_eager_pytorch(setting, size):
    found = heat.chunk_heat([peer() for peer in HERE], setting.subject(size), 5, 0.01)
    assert list(found.entries) == [peer.name for peer in HERE if peer is not Cells]
    assert found.skipped == {Cells.name: "PyTorch cells takes no chunks"}


class Forgetful(Peer):
    """Starts anew at each step."""

    name = "forgetful"

    def step(self, subject, batch):
        def step(tokens):
            return Numpy().step(subject, batch)(tokens)

        return step


class Deaf(Peer):
    """Reads the first token again and again, as a binding whose input was copied when it was bound."""

    name = "deaf"

    def step(self, subject, batch):
        run, first = Numpy().step(subject, batch), []

        def step(tokens):
            first.append(tokens.copy())
            return run(first[0])

        return step


class Absent(Peer):
    name = "absent"
    package = "no_such_package_anywhere"


class Broken(Peer):
    name = "broken"

    def step(self, subject, batch):
        raise ValueError("no such kernel\nand more")


def test_whoever_is_wrong_absent_or_broken_is_named_and_not_timed(setting):
    found = step_heat([Ours(), Forgetful(), Deaf(), Absent(), Broken()], setting.subject(LSTM_1x20), 1, 0.01)
    assert list(found.entries) == [Ours.name]
    assert found.skipped["forgetful"].startswith("wrong: off by ")
    assert found.skipped["deaf"].startswith("wrong: off by ")
    assert found.skipped["absent"] == "no_such_package_anywhere is not installed"
    assert found.skipped["broken"] == "failed: ValueError: no such kernel"


def test_without_the_reference_there_is_no_heat():
    contest = Contest()
    contest.enter(Ours.name, lambda: (lambda: None, 1.0), 1e-5)
    with pytest.raises(RuntimeError, match="rnnx must take part in a heat: wrong: off by 1.0e\\+00"):
        contest.run(0.01)


def test_a_figure_that_is_none_is_a_difference():
    assert heat.difference(np.array([1.0, np.nan]), np.array([1.0, 2.0])) == float("inf")
    assert heat.difference(np.zeros(2), np.zeros(3)) == float("inf")
    assert heat.difference(np.array([101.0]), np.array([100.0])) == pytest.approx(0.01)


def test_pools_and_streams_one_by_one_answer_as_one_batch(setting):
    peers = [Ours(), streams.Pool(), streams.PoolByTurns(), streams.OneByOne()]
    found = step_heat(peers, setting.subject(LSTM_1x20), 5, 0.01)
    assert list(found.entries) == [peer.name for peer in peers]


def test_all_who_write_write_the_same_text(setting):
    from benchmarks import generation

    figures = generation.measure(setting)
    written = figures.heats[LSTM_1x20.name]
    assert {Ours.name, generation.NAIVE, generation.TORCH, "bare binding, minimal graph, a lean loop"} <= set(written.entries)
    assert all(entry.difference == 0 for entry in written.entries.values())
    assert "wrong" not in str(written.skipped)


def test_the_minimal_graph_has_nothing_to_leave_out():
    import onnx

    operators = [node.op_type for node in onnx.load_model_from_string(minimal(GRU_2x256)).graph.node]
    assert operators == ["Gather", "GRU", "Squeeze", "GRU", "Squeeze", "MatMul", "Add"]


def test_a_target_is_met_on_its_own_side():
    assert Target("", 1.25, False, 1.2).met is True
    assert Target("", 1.25, False, 1.3).met is False
    assert Target("", 10, True, 12).met is True
    assert Target("", 10, True, 9).met is False
    assert Target("", 10, True, None).met is None


def _heat(**ratios):
    return Heat(
        {name: Entry(10 * ratio, 20, 0.1, ratio, ratio, ratio, 1e-7) for name, ratio in ratios.items()},
        {"ncnn": "is not installed"},
    )


def test_a_run_becomes_a_page_with_charts_and_its_figures_come_back(tmp_path):
    ratios = {Ours.name: 1.0, BoundMinimal.name: 0.5, "LiteRT": 0.4, Cells.name: 4.0, Eager.name: 8.0}
    asked = step.Figures({size.name: _heat(**ratios) for size in MODELS})
    kept = results.gathered("quick", {"step": msgspec.to_builtins(asked)}, {"step": 1.0}, {"chunk": "it crashed"})
    results.write(kept, tmp_path / "results.json")
    again = results.read(tmp_path / "results.json")
    assert again == kept
    assert again.figures["step"] == asked
    report.write_report(again, tmp_path / "docs" / "page.md")
    page = (tmp_path / "docs" / "page.md").read_text(encoding="utf-8")
    assert "A quick run: not figures to report." in page
    assert "| LSTM 2×128 | 10.0 µs | 0.50× | – | 4.00× | 8.00× | LiteRT 0.40× |" in page
    assert (
        "| `Stream.step` over a bare binding on the minimal graph, LSTM 2×128 | ≤ 1.25 | 2.00 |  | **missed by 60%** |" in page
    )
    assert "| faster than PyTorch cells, LSTM 2×128 | ≥ 3.50 | 4.00 | 8.00 | met |" in page
    assert "- ncnn: is not installed" in page
    assert "- chunk: it crashed" in page
    assert (tmp_path / "docs" / "images" / "step.svg").read_text(encoding="utf-8").startswith("<?xml")


def test_there_is_a_file_for_every_question():
    for name in results.QUESTIONS:
        found = results.question(name)
        assert found.name == name
        assert found.text.endswith("?")
        assert Path(report.ROOT, "benchmarks", f"{name}.py").exists()


@pytest.mark.parametrize("name", ["chunk", "streams", "memory", "cold_start", "growth", "disk"])
def test_a_question_has_figures_that_are_kept_and_a_page(setting, name):
    asked = results.question(name)
    figures = asked.measure(setting)
    again = msgspec.json.decode(msgspec.json.encode(figures), type=asked.figures)
    assert again == figures
    assert "| --- | ---: |" in asked.page(again)
    assert all(target.found is not None for target in asked.targets(again))


def test_memory_is_measured_in_bytes_over_the_whole_sequence(setting):
    figures = results.question("memory").measure(setting)
    assert figures.idle[LSTM_1x20.name][0] == 2 * 20 * 4  # h and c of one layer
    assert figures.seen[-1][0] >= 20_000
    assert figures.peak >= figures.seen[-1][1]


def test_memory_grows_from_a_tenth_of_the_steps_on():
    seen = [(100 * part, 1000 if part <= 10 else 1500) for part in range(1, 101)]
    assert memory.growth_of(memory.Figures({}, LSTM_1x20.name, 1.0, seen, 1500)) == 500


def test_a_program_that_fails_once_is_named_and_has_no_figures(tmp_path, monkeypatch):
    started = []

    def run(program, path):
        started.append(program)
        if "from rnnx_runtime import load" in program and started.count(program) == 2:
            raise subprocess.CalledProcessError(1, "python", stderr="Traceback\nkilled\n")
        return [1.0] * 5

    monkeypatch.setattr(cold_start, "_run", run)
    found = cold_start.measure(Setting("quick", tmp_path))
    ((_, starts),) = found.starts.items()
    assert found.skipped["rnnx"] == "killed"
    assert "rnnx" not in starts
    assert starts["numpy, nothing else"].ratio == 1
    assert max(started.count(program) for program in started if "from rnnx_runtime import load" in program) == 2


def test_a_question_runs_alone(setting, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["step", "--smoke", "--artifacts", str(setting.folder)])
    step.QUESTION.main()
    printed = capsys.readouterr().out
    assert printed.startswith("How long does one step take?")
    assert "faster than PyTorch cells, LSTM 1×20" in printed


def test_what_cannot_be_done_is_said():
    with pytest.raises(NotApplicableError, match="no chunks"):
        Cells().chunk(Subject(LSTM_1x20, Path("none")), 4)
