"""What is advised follows from the figures: each rule above its threshold and below it. The figures are made up."""

from dataclasses import replace

import pytest
from msgspec import structs
from tests.runtime.conftest import GOLDEN

import rnnx
from rnnx._bench.figures import Contest, Streams, Threads
from rnnx._bench.picture import write_picture
from rnnx._bench.timing import Timing

STEP = 10e-6


def timed(seconds, units=1, rounds=5):
    """A contender that always takes the same."""
    return Timing(((seconds,) * 20,) * rounds, units)


def with_steps(bench, seconds, **changes):
    return replace(bench, contests=(Contest("rnnx", timed(seconds)),), **changes)


@pytest.fixture(scope="module")
def plain():
    """A benchmark from which nothing follows."""
    found = rnnx.bench(GOLDEN / "lstm.onnx", seconds=0.02, streams=1)
    return with_steps(found, STEP, chunk=None, generation=None, streams=(), thread_counts=(), size=10_000, taken=0.0)


def advice(found):
    return {one.rule: (one.because, one.do) for one in found.advice}


def streams(*micros):
    """By batch: what one call of the pool takes."""
    return tuple(
        Streams(batch, timed(STEP if batch == 1 else us * 1e-6, batch), timed(us * 1e-6, batch)) for batch, us in micros
    )


def test_where_nothing_is_gained_nothing_is_advised(plain):
    assert plain.advice == ()
    assert str(plain).endswith("advice: none; nothing that was measured promises more than a tenth")


def test_chunks_where_they_are_half_as_long_again_faster(plain):
    because, do = advice(replace(plain, chunk=timed(64e-6, 64)))["chunk"]
    assert because == "a step of a chunk takes 1 µs, one alone 10 µs, 10.0 times as long"
    assert do.startswith("give what is known in advance to stream.feed(chunk)")
    assert "chunk" not in advice(replace(plain, chunk=timed(64 * 7e-6, 64)))


def test_no_chunks_where_they_change_the_answers(plain):
    manifest = structs.replace(plain.manifest, chunks_matter_because="forward counts its calls")
    assert "chunk" not in advice(replace(plain, chunk=timed(64e-6, 64), manifest=manifest))


def test_the_best_batch_is_the_smallest_that_is_nearly_the_best(plain):
    found = replace(plain, streams=streams((1, 20), (8, 24), (64, 64), (128, 126), (256, 300)))
    assert found.best_batch == 64  # 1 µs a step, and 128 takes 0.98
    because, do = advice(found)["pool"]
    assert because == "64 streams at once do 10.0 times the steps of one (256 take 17 % longer a step)"
    assert do == "for many streams model.pool(max_batch=64)"
    assert "     64" in next(line for line in str(found).splitlines() if line.endswith("best"))


def test_no_pool_where_streams_gain_little(plain):
    assert "pool" not in advice(replace(plain, streams=streams((1, 10), (8, 70))))


def test_fewer_bits_for_wide_states_and_heavy_weights_only(plain):
    slow = with_steps(plain, 400e-6)
    assert "quantise" not in advice(slow)  # the golden LSTM is small
    because, do = advice(replace(slow, size=13_400_000))["quantise"]
    assert because.startswith("a step takes 400 µs with 13.4 MB of weights and states of ")
    assert do == f"try fewer bits: rnnx quantize {plain.path} --bits 8"
    states = tuple(structs.replace(s, shape=(1, "batch", 256)) for s in plain.manifest.states)
    assert "quantise" in advice(replace(slow, manifest=structs.replace(plain.manifest, states=states)))


def test_fewer_bits_of_a_model_without_states(plain):
    found = replace(with_steps(plain, 400e-6), size=8_500_000, manifest=structs.replace(plain.manifest, states=()))
    assert advice(found)["quantise"][0].startswith("a step takes 400 µs with 8.5 MB of weights: reading the weights is ")


def test_fewer_bits_not_where_they_cannot_help(plain):
    heavy = replace(with_steps(plain, 400e-6), size=13_400_000)
    assert "quantise" not in advice(
        replace(with_steps(plain, 12e-6), size=13_400_000)
    )  # a large table, of which little is read
    assert "quantise" not in advice(replace(heavy, operators={"Scan": 1, "MatMulNBits": 2}))
    assert "quantise" not in advice(replace(heavy, operators={"LSTM": 1, "DequantizeLinear": 1}))
    assert "quantise" not in advice(replace(heavy, operators={"Scan": 1}))
    assert "quantise" not in advice(replace(heavy, manifest=structs.replace(plain.manifest, precision="float64")))


def test_another_provider_where_it_is_faster_in_most_rounds(plain):
    def beside(other):
        return replace(plain, contests=(*plain.contests, Contest("rnnx on openvino", other, "", "openvino")))

    assert advice(beside(timed(7e-6)))["provider"] == (
        "provider openvino takes 0.70 of the time of cpu",
        'load(..., providers="openvino"), --provider openvino',
    )
    assert "provider" not in advice(beside(timed(9.5e-6)))
    unsteady = Timing(((7e-6,),) * 3 + ((11e-6,),) * 2)
    assert "provider" not in advice(beside(unsteady))
    peer = replace(plain, contests=(*plain.contests, Contest("binding", timed(5e-6))))
    assert peer.advice == ()  # a peer is no provider


def test_threads_only_where_they_are_faster(plain):
    one = Threads(1, timed(STEP), timed(64e-6, 64), 8, timed(40e-6, 8))
    worse = Threads(2, timed(2 * STEP), timed(70e-6, 64), 8, timed(48e-6, 8))
    assert advice(replace(plain, thread_counts=(one, worse)))["threads"] == (
        "2 threads take this part of the time of one: 2.00 for one call, 1.09 for a chunk, 1.20 for 8 streams",
        "leave threads=1",
    )
    better = Threads(4, timed(2 * STEP), timed(32e-6, 64), 8, timed(48e-6, 8))
    assert advice(replace(plain, thread_counts=(one, worse, better)))["threads"] == (
        "4 threads take this part of the time of one: 2.00 for one call, 0.50 for a chunk, 1.20 for 8 streams",
        "where cores are free, load(..., threads=4)",
    )


def test_of_few_calls_there_is_no_99th_percentile(plain):
    for rounds, p99 in ((5, "10.0 µs"), (4, "–")):  # 100 and 80 calls
        page = str(replace(plain, contests=(Contest("rnnx", timed(STEP, rounds=rounds)),)))
        assert next(line for line in page.splitlines() if line.startswith("  rnnx  ")).split(maxsplit=1)[1] == (
            f"10.0 µs{p99:>12}   1"
        )


def test_a_picture_shows_every_contender(plain, tmp_path):
    names = [f"contender-{number}" for number in range(12)]
    contests = tuple(Contest(name, Timing(((STEP, 1.1 * STEP),))) for name in names)
    write_picture(tmp_path / "plot.svg", replace(plain, contests=contests))
    drawn = (tmp_path / "plot.svg").read_text(encoding="utf-8")  # texts are curves, with what they say in a comment
    assert [name for name in names if f"<!-- {name}, " not in drawn] == []


def test_an_unsteady_machine_is_named(plain):
    assert not plain.noisy
    unsteady = Timing(tuple((STEP * (1 + 0.2 * number),) * 9 for number in range(5)))
    found = replace(plain, contests=(Contest("rnnx", unsteady),))
    assert found.noisy
    assert "\n  NOISY      the same step took times 29 % apart from round to round, and other programs had 0 % of" in str(
        found
    )
    shared = replace(plain, taken=0.4)
    assert shared.noisy
    assert "and other programs had 40 % of the core:" in " ".join(str(shared).split())
    assert not replace(plain, taken=0.02).noisy


def test_a_broken_artifact_is_named(plain):
    assert "BROKEN" not in str(plain)
    assert "\n  golden     BROKEN: it does not compute here what was exported" in str(replace(plain, selftest="broken"))
