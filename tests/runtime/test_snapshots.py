"""States and generations as bytes: exact, bound to their artifact, and refused where they are anything else."""

import hashlib
import json
import pickle

import numpy as np
import pytest
from tests.runtime.answers import sample

from rnnx_runtime import InputError, State, StateError, load

CHECK = 32


def sealed(content: bytes) -> bytes:
    return content + hashlib.sha256(content).digest()


def changed(data: bytes, change) -> bytes:
    """The snapshot with another header, sealed again: what somebody makes who knows the format."""
    length = int.from_bytes(data[12:16], "little")
    header = json.loads(data[16 : 16 + length])
    change(header)
    text = json.dumps(header).encode()
    return sealed(data[:12] + len(text).to_bytes(4, "little") + text + data[16 + length : -CHECK])


@pytest.mark.parametrize("batch", [1, 3])
def test_a_state_is_the_same_after_its_bytes(model, batch):
    stream = model.stream(batch)
    stream.feed(sample(model, batch, 5))
    state = stream.state
    data = state.to_bytes()
    again = State.from_bytes(data)
    assert again == state
    assert (again.position, again.batch, again.digest) == (5, batch, model.digest)
    assert again.to_bytes() == data == pickle.loads(pickle.dumps(again)).to_bytes()
    other = model.stream(batch)
    other.restore(again)
    assert (other.state, other.position) == (state, 5)
    xs = sample(model, batch, 3, seed=1)
    assert stream.feed(xs) is not None
    other.feed(xs)
    assert other.state == stream.state
    assert model.stream(state=again).position == 5


def test_the_bytes_are_written_down_here(running_sum):
    """The format does not change by accident: 16 bytes, a header, little-endian numbers, a checksum."""
    data = running_sum.make_state({"sum": [[1, -2]]}).to_bytes()
    header = (
        '{"kind":"state","digest":"' + running_sum.digest + '","arrays":[{"name":"sum","dtype":"float32","shape":[1,2]}],'
        '"meta":{"batch":1,"position":0}}'
    )
    wanted = b"rnnxsnap" + (1).to_bytes(4, "little") + len(header).to_bytes(4, "little") + header.encode()
    assert data == sealed(wanted + bytes.fromhex("0000803f000000c0"))


def test_every_damaged_byte_and_every_cut_is_refused(running_sum):
    data = running_sum.make_state({"sum": [[1, -2]]}).to_bytes()
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 1
        with pytest.raises(StateError):
            State.from_bytes(bytes(damaged))
        with pytest.raises(StateError):
            State.from_bytes(data[:place])
    with pytest.raises(StateError, match="^the snapshot is damaged or cut short"):
        State.from_bytes(data + b"\0")


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda h: h.update(kind="generation"), "this is a snapshot of a generation, not of a state"),
        (lambda h: h.update(extra=1), "the snapshot's header is not valid: Object contains unknown field `extra`"),
        (lambda h: h.pop("digest"), "the snapshot's header is not valid: Object missing required field `digest`"),
        (lambda h: h["arrays"][0].update(dtype="object"), "the snapshot's header is not valid: Invalid enum value 'object'"),
        (lambda h: h["arrays"][0].update(shape=[-1, -2]), "the snapshot's header is not valid: a name stands twice, or"),
        (lambda h: h["arrays"][0].update(shape=[1, 3]), "the snapshot's arrays need 12 bytes, it has 8"),
        (lambda h: h["arrays"][0].update(shape=[1 << 62, 2]), "the snapshot's header is not valid: an array has more than "),
        (
            lambda h: h["arrays"][0].update(shape=[0, 1 << 31, 1 << 31]),
            "the snapshot's header is not valid: an array has more",
        ),
        (lambda h: h["arrays"].append(h["arrays"][0]), "the snapshot's header is not valid: a name stands twice, or"),
        (lambda h: h["meta"].update(batch=0), "the snapshot has a batch of 0 at position 0; it was not made by rnnx"),
        (lambda h: h["meta"].update(position=-1), "the snapshot has a batch of 1 at position -1; it was not made by rnnx"),
        (lambda h: h.update(meta=None), "the snapshot's header is not valid: Expected `object`, got `null`"),
    ],
)
def test_a_header_that_lies_is_refused(running_sum, change, rule):
    data = running_sum.make_state({"sum": [[1, -2]]}).to_bytes()
    with pytest.raises(StateError, match=f"^{rule}"):
        State.from_bytes(changed(data, change))


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda h: h.update(digest="0" * 64), "the state belongs to artifact 000000000000, this model is "),
        (lambda h: h["meta"].update(batch=2), "the state has a batch of 2, this stream one of 1|the state lacks sum, float32"),
        (lambda h: h["arrays"][0].update(name="other"), r"the state lacks sum, float32 \(1, 2\); it was not made by rnnx"),
        (lambda h: h["arrays"][0].update(shape=[2, 1]), r"the state lacks sum, float32 \(1, 2\); it was not made by rnnx"),
        (lambda h: h["arrays"][0].update(dtype="int32"), r"the state lacks sum, float32 \(1, 2\); it was not made by rnnx"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_before_anything_changes(running_sum, change, rule):
    stream = running_sum.stream()
    stream.step([[1, 1]])
    before, state = stream.state, State.from_bytes(changed(running_sum.make_state({"sum": [[1, -2]]}).to_bytes(), change))
    pool = running_sum.pool()
    pool.join("a")
    for use in (
        lambda: stream.restore(state),
        lambda: running_sum.step([[1, 1]], state),
        lambda: running_sum.stream(state=state),
        lambda: pool.restore("a", state),
        lambda: pool.join("b", state),
    ):
        with pytest.raises(StateError, match=f"^({rule}|the state has a batch of 2, the input one of 1)"):
            use()
    assert stream.state == before
    assert list(pool) == ["a"]


def test_a_state_with_a_value_that_is_not_finite_is_refused(running_sum):
    data = running_sum.make_state({"sum": [[1, -2]]}).to_bytes()
    infinite = sealed(data[: -CHECK - 4] + np.float32(np.inf).tobytes())
    with pytest.raises(StateError, match="^sum: a value is not finite; restore a state from before the model overflowed$"):
        State.from_bytes(infinite)


def test_a_header_that_is_no_text_is_refused_as_a_whole(running_sum):
    """Also where it holds what is read only later."""
    data = running_sum.make_state({"sum": [[1, -2]]}).to_bytes()
    spoilt = data[:-CHECK].replace(b'"batch"', b'"b\x8dtch"')
    with pytest.raises(StateError, match="^the snapshot's header is not valid: 'utf-8' codec can't decode byte 0x8d"):
        State.from_bytes(sealed(spoilt))


@pytest.mark.parametrize("data", [b"", b"rnnx", b"x" * 100, b"rnnxsnap", "text", None, 3])
def test_what_is_no_snapshot_is_refused(data, char_rnn):
    with pytest.raises(StateError, match="^(a snapshot is bytes|these \\d+ bytes are no snapshot|the snapshot is damaged)"):
        State.from_bytes(data)
    stream = char_rnn.stream()
    with pytest.raises(StateError):
        stream.resume(data)


def test_a_snapshot_of_a_later_format_says_so(running_sum):
    data = running_sum.initial_state().to_bytes()
    later = sealed(data[:8] + (2).to_bytes(4, "little") + data[12:-CHECK])
    with pytest.raises(StateError, match="^the snapshot has format 2, this runtime reads format 1; make it again$"):
        State.from_bytes(later)


OPTIONS = {"temperature": 0.9, "top_k": 4, "top_p": 0.95, "min_p": 0.01, "repetition_penalty": 1.2, "seed": 11}


@pytest.mark.parametrize("at", range(0, 24, 3))
def test_a_generation_goes_on_to_the_same_text(char_rnn, golden, at):
    whole = list(char_rnn.stream().generate("hell", 24, stop="ollh", **OPTIONS))
    generation = char_rnn.stream().generate("hell", 24, stop="ollh", **OPTIONS)
    begun = [next(generation) for _ in range(min(at, len(whole)))]
    stream = load(golden / "char_rnn.onnx").stream()
    resumed = stream.resume(generation.to_bytes())
    assert resumed.text == "".join(begun)
    assert begun + list(resumed) == whole
    assert resumed.text == "".join(whole)
    assert list(resumed) == []
    list(generation)
    assert stream.state == generation._state()


def test_what_was_held_back_and_its_probability_survive(char_rnn):
    def writing():
        return char_rnn.stream().generate("hell", 40, seed=1, stop="hhhhhh")

    whole = [(piece, generation.logprob) for generation in [writing()] for piece in generation]
    held = next(place for place, (piece, _) in enumerate(whole) if len(piece) > 1)
    for at in range(held + 1):
        generation = writing()
        found = [(next(generation), generation.logprob) for _ in range(at)]
        generation = char_rnn.stream().resume(generation.to_bytes())
        found += [(piece, generation.logprob) for piece in generation]
        assert found == whole


@pytest.mark.parametrize(
    "change",
    [
        lambda h: h["meta"].update(left=-1),
        lambda h: h["meta"].update(position=-1),
        lambda h: h["meta"].update(position=1 << 63),
        lambda h: h["meta"]["sampler"].update(temperature=-1),
        lambda h: h["meta"]["sampler"].update(top_k=0),
        lambda h: h["meta"]["random"].update(state="x"),
        lambda h: h["meta"]["random"].update(state="f" * 40),
        lambda h: h["meta"].update(stop=[""]),
        lambda h: h["meta"].update(held="a"),
        lambda h: h["meta"].pop("text"),
        lambda h: h["arrays"].pop(),
        lambda h: h["arrays"][0].update(name="other"),
        lambda h: h["arrays"][-1].update(name="other"),
        lambda h: h["arrays"][-2].update(shape=[2, 2]),
        lambda h: h.update(digest="0" * 64),
        lambda h: h.update(kind="state"),
    ],
)
def test_a_checkpoint_that_lies_is_refused_and_the_stream_stays(char_rnn, change):
    generation = char_rnn.stream().generate("hell", 9, seed=1)
    next(generation)
    stream = char_rnn.stream()
    stream.step([1])
    before = stream.state
    with pytest.raises(StateError):
        stream.resume(changed(generation.to_bytes(), change))
    assert stream.state == before


def with_logits(data: bytes, logits) -> bytes:
    """The checkpoint with other logits: the last array but one, before the symbols that were seen."""
    size, symbols = logits.nbytes, len(logits)
    again = sealed(data[: -CHECK - symbols - 4 * symbols] + logits.tobytes() + data[-CHECK - symbols : -CHECK])
    return changed(again, lambda h: h["arrays"][-2].update(dtype=logits.dtype.name)) if size != 4 * symbols else again


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_a_checkpoint_whose_logits_are_not_finite_is_refused(char_rnn, wrong):
    data = char_rnn.stream().generate("hell", 9, seed=1).to_bytes()
    assert char_rnn.stream().resume(with_logits(data, np.array([-np.inf, 0, 1, 2], np.float32)))
    rule = "^the checkpoint's logits are not finite; resume one from before the model overflowed$"
    with pytest.raises(StateError, match=rule):
        char_rnn.stream().resume(with_logits(data, np.array([0, wrong, 0, 0], np.float32)))
    with pytest.raises(StateError, match="^the checkpoint is not valid: it was not made by rnnx$"):
        char_rnn.stream().resume(with_logits(data, np.array([0, 1, 2, 3], np.float64)))


def test_a_checkpoint_whose_state_is_not_finite_is_refused(char_rnn):
    data = char_rnn.stream().generate("hell", 9, seed=1).to_bytes()
    end = 16 + int.from_bytes(data[12:16], "little")
    with pytest.raises(
        StateError, match="^rnn.l0.h: a value is not finite; restore a state from before the model overflowed$"
    ):
        char_rnn.stream().resume(sealed(data[:end] + np.float32(np.nan).tobytes() + data[end + 4 : -CHECK]))


def test_a_checkpoint_is_for_one_stream_of_a_model_that_writes(char_rnn, lstm):
    data = char_rnn.stream().generate("hell", 9, seed=1).to_bytes()
    with pytest.raises(InputError, match="^text is generated one stream at a time, this one has a batch of 2$"):
        char_rnn.stream(2).resume(data)
    with pytest.raises(InputError, match="^this artifact does not answer in text"):
        lstm.stream().resume(data)
