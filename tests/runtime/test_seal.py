import contextlib
import hashlib

import pytest
from tests.runtime.handmade import SEAL_SIZE, running_sum, sealed_again

from rnnx_runtime import ArtifactError
from rnnx_runtime._seal import check_seal
from rnnx_runtime.artifact import SEAL_KEY, open_artifact, seal


@pytest.fixture(scope="module", params=["char_rnn", "lstm", "gru"])
def data(golden, request):
    return (golden / f"{request.param}.onnx").read_bytes()


def test_the_seal_is_one_metadata_entry_of_81_bytes_with_the_digest_of_all_before_it():
    content = b"anything"
    sealed = seal(content)
    digest = hashlib.sha256(content).hexdigest()
    assert sealed == content + b"\x72\x4f\x0a\x0brnnx.sha256\x12\x40" + digest.encode()
    assert len(sealed) == len(content) + SEAL_SIZE
    assert SEAL_KEY == "rnnx.sha256"
    assert check_seal(sealed) == digest


def test_an_artifact_carries_the_digest_of_its_content(data):
    assert open_artifact(data).digest == hashlib.sha256(data[:-SEAL_SIZE]).hexdigest()


@pytest.mark.parametrize("flip", [0x01, 0xFF])
def test_a_changed_byte_breaks_the_seal_wherever_it_stands(data, flip):
    mutant = bytearray(data)
    for offset in range(len(data) - SEAL_SIZE):
        mutant[offset] ^= flip
        with pytest.raises(ArtifactError, match="the seal is broken: the content does not have the digest"):
            open_artifact(bytes(mutant))
        mutant[offset] ^= flip


def test_every_change_of_a_byte_of_the_seal_itself_is_refused(data):
    for offset in range(len(data) - SEAL_SIZE, len(data)):
        for byte in range(256):
            mutant = data[:offset] + bytes([byte]) + data[offset + 1 :]
            if mutant != data:
                with pytest.raises(ArtifactError, match="the seal is broken|not a sealed rnnx artifact"):
                    open_artifact(mutant)


def test_the_digest_is_written_in_lower_case_and_nothing_else(data):
    with pytest.raises(ArtifactError, match="the seal is broken"):
        open_artifact(data[:-64] + data[-64:].upper())


def test_a_file_cut_anywhere_is_refused(data):
    for size in range(len(data)):
        with pytest.raises(ArtifactError, match="the seal at the end of the file is missing"):
            open_artifact(data[:size])


@pytest.mark.parametrize("tail", [b"\0", b"\n", b"x" * SEAL_SIZE, b"\x72\x00"])
def test_a_file_with_something_behind_its_seal_is_refused(data, tail):
    with pytest.raises(ArtifactError, match="the seal at the end of the file is missing"):
        open_artifact(data + tail)


def test_two_artifacts_in_one_file_are_refused(data):
    with pytest.raises(ArtifactError, match="the seal is broken"):
        open_artifact(data + data)


def test_a_file_sealed_twice_is_refused(data):
    with pytest.raises(ArtifactError, match=r"metadata 'rnnx\.sha256' stands twice in the file"):
        open_artifact(seal(data))


@pytest.mark.parametrize("data", [b"", b"\0", b"hello", b"x" * SEAL_SIZE, b"\x72\x4f\x0a\x0brnnx.sha256\x12\x40"])
def test_bytes_that_are_no_artifact_are_refused(data):
    with pytest.raises(ArtifactError, match="or not made by `rnnx export`"):
        open_artifact(data)


def test_a_sealed_nothing_is_no_artifact():
    with pytest.raises(ArtifactError, match="it holds no graph"):
        open_artifact(seal(b""))


def test_changed_files_that_are_sealed_again_never_crash_the_reader(golden):
    for data, stride in ((running_sum(), 1), ((golden / "char_rnn.onnx").read_bytes(), 13)):
        for offset in range(0, len(data) - SEAL_SIZE, stride):
            for flip in (0x01, 0x08, 0x80, 0xFF):
                mutant = bytearray(data)
                mutant[offset] ^= flip
                with contextlib.suppress(ArtifactError):  # refused or whole: anything else that is raised fails the test
                    open_artifact(sealed_again(bytes(mutant)))
