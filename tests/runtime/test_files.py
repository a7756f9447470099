import os
import signal
import stat
from pathlib import Path

import pytest

from rnnx_runtime import ArtifactError, ArtifactNotFoundError, load
from rnnx_runtime._files import read_regular
from rnnx_runtime.artifact import check_writable, write_atomic, write_together

DESCRIPTORS = Path("/proc/self/fd")


@pytest.fixture(autouse=True)
def no_descriptor_is_left_open():
    if not DESCRIPTORS.exists():
        yield
        return
    before = len(list(DESCRIPTORS.iterdir()))
    yield
    assert len(list(DESCRIPTORS.iterdir())) == before


def test_a_regular_file_is_read_whole(tmp_path):
    data = bytes(range(256)) * 1000
    (tmp_path / "a").write_bytes(data)
    assert read_regular(tmp_path / "a", len(data)) == data
    assert read_regular(str(tmp_path / "a"), len(data)) == data


def test_a_file_over_the_limit_is_not_read(tmp_path):
    (tmp_path / "a").write_bytes(bytes(101))
    with pytest.raises(ArtifactError, match=r"a' has 101 bytes; at most 100 are read$"):
        read_regular(tmp_path / "a", 100)


def test_a_link_to_an_artifact_is_followed(tmp_path, golden, lstm):
    (tmp_path / "link.onnx").symlink_to(golden / "lstm.onnx")
    assert load(tmp_path / "link.onnx").digest == lstm.digest


@pytest.mark.parametrize("name", ["missing.onnx", "no/such/folder/model.onnx", "häß 👩.onnx"])
def test_a_missing_file_is_named_with_the_command_that_makes_one(tmp_path, name):
    with pytest.raises(ArtifactNotFoundError, match=f"^no file at '.*{name}'; make an artifact with `rnnx export`$"):
        load(tmp_path / name)


def test_a_dangling_link_is_a_missing_file(tmp_path):
    (tmp_path / "link.onnx").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ArtifactNotFoundError, match="^no file at "):
        load(tmp_path / "link.onnx")


def test_no_path_at_all_is_a_missing_file():
    with pytest.raises(ArtifactNotFoundError, match="^no file at "):
        load("")


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(
        ArtifactError, match=f"^'{tmp_path}' is a folder; give the path of an artifact, for example model.onnx$"
    ):
        load(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes in folders")
def test_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path):
    os.mkfifo(tmp_path / "pipe.onnx")
    with pytest.raises(ArtifactError, match=r"pipe\.onnx' is not a regular file; give the path of an artifact"):
        load(tmp_path / "pipe.onnx")


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="this system has no such device")
@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null"])
def test_a_device_is_refused(device):
    with pytest.raises(ArtifactError, match=f"^'{device}' is not a regular file; give the path of an artifact"):
        load(device)


def test_a_loop_of_links_is_refused(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(ArtifactError, match="^cannot open .*/a': "):
        load(tmp_path / "a")


def test_a_path_through_a_file_is_refused(tmp_path):
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(ArtifactError, match="^cannot open .*/a/model.onnx': "):
        load(tmp_path / "a" / "model.onnx")


def test_a_name_that_is_too_long_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match="^cannot open "):
        load(tmp_path / ("a" * 5000))


def test_a_name_with_a_null_character_is_refused():
    with pytest.raises(ArtifactError, match="null"):
        load("model\0.onnx")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read_is_refused(tmp_path):
    (tmp_path / "secret.onnx").touch(mode=0)
    with pytest.raises(ArtifactError, match=r"^cannot open .*secret\.onnx': Permission denied$"):
        load(tmp_path / "secret.onnx")


@pytest.mark.parametrize("content", [b"", b"\0", b"hello, I am a text file\n", b"PK\x03\x04", bytes(10_000), b"\xff" * 200])
def test_a_file_that_is_no_artifact_is_refused_with_its_name(tmp_path, content):
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(
        ArtifactError, match=r"^'.*model\.onnx': not a sealed rnnx artifact: the seal at the end of the file is missing"
    ):
        load(tmp_path / "model.onnx")


@pytest.mark.parametrize("source", [None, 3, 3.5, True, ["model.onnx"]])
def test_what_is_neither_path_nor_bytes_is_a_mistake_in_the_program(source):
    with pytest.raises(TypeError):
        load(source)


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_content_in_another_container_is_not_taken_for_a_path(golden, kind):
    path = golden / "lstm.onnx"
    for content in (path.read_bytes()[:100], bytes(path)):
        with pytest.raises((ArtifactError, TypeError), match="not a sealed rnnx artifact|expected|should be"):
            load(kind(content))


def test_writing_makes_the_folders_and_the_file(tmp_path):
    target = tmp_path / "new" / "folder" / "model.onnx"
    write_atomic(target, b"content")
    assert target.read_bytes() == b"content"
    write_atomic(str(target), b"other content")
    assert target.read_bytes() == b"other content"
    assert [path.name for path in target.parent.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_a_written_file_has_the_permissions_of_any_other(tmp_path, umask):
    before = os.umask(umask)
    try:
        write_atomic(tmp_path / "a", b"")
        (tmp_path / "b").touch()
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == stat.S_IMODE((tmp_path / "b").stat().st_mode)


def test_a_folder_is_not_overwritten(tmp_path):
    (tmp_path / "model.onnx").mkdir()
    with pytest.raises(IsADirectoryError, match="is a folder; give the path of a file"):
        write_atomic(tmp_path / "model.onnx", b"content")
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize("there_before", [True, False])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("function", ["write", "fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, function, error, there_before):
    target = tmp_path / "model.onnx"
    if there_before:
        target.write_bytes(b"old")

    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(os, function, fail)
    with pytest.raises(type(error)):
        write_atomic(target, b"new")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == ({"model.onnx": b"old"} if there_before else {})


def test_the_content_is_on_disk_before_the_name_is(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *arguments, name=name, real=real: calls.append(name) or real(*arguments))
    write_atomic(tmp_path / "model.onnx", b"content")
    assert calls in (["fsync", "replace", "fsync"], ["fsync", "replace"])  # the folder too, where folders can be opened


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path, monkeypatch):
    target = tmp_path / "model.onnx"
    target.write_bytes(b"old")
    seen, real = [], os.replace

    def replace(*arguments):
        seen.append(target.read_bytes())
        real(*arguments)

    monkeypatch.setattr(os, "replace", replace)
    write_atomic(target, b"new")
    assert (seen, target.read_bytes()) == ([b"old"], b"new")


@pytest.mark.skipif(not hasattr(os, "O_DIRECTORY"), reason="folders cannot be opened here")
def test_an_error_means_that_the_old_file_is_untouched(tmp_path, monkeypatch):
    target = tmp_path / "model.onnx"
    target.write_bytes(b"old")
    real = os.fsync

    def only_files(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(22, "Invalid argument")  # some network file systems
        real(descriptor)

    monkeypatch.setattr(os, "fsync", only_files)
    try:
        write_atomic(target, b"new")
    except OSError:
        assert target.read_bytes() == b"old"
    else:
        assert target.read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def temporaries(folder):
    return [path.name for path in folder.iterdir() if path.name.startswith(".tmp-rnnx-")]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path, monkeypatch):
    child = os.fork()
    if child == 0:
        os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
        write_atomic(tmp_path / "model.onnx", b"content")
        os._exit(0)
    os.waitpid(child, 0)
    assert len(temporaries(tmp_path)) == 1
    write_atomic(tmp_path / "other.onnx", b"content")
    assert [path.name for path in tmp_path.iterdir()] == ["other.onnx"]


def test_what_a_living_writer_has_is_left_to_it(tmp_path, monkeypatch):
    real, seen = os.fsync, []

    def in_between(descriptor):
        monkeypatch.setattr(os, "fsync", real)
        write_atomic(tmp_path / "other.onnx", b"other")
        seen.extend(temporaries(tmp_path))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", in_between)
    write_atomic(tmp_path / "model.onnx", b"content")
    assert len(seen) == 1
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"model.onnx": b"content", "other.onnx": b"other"}


def test_what_is_only_called_like_a_temporary_file_is_left_alone(tmp_path):
    os.mkfifo(tmp_path / ".tmp-rnnx-pipe")
    (tmp_path / ".tmp-rnnx-folder").mkdir()
    (tmp_path / ".tmp-rnnx-link").symlink_to(tmp_path / "kept")
    (tmp_path / "kept").touch()
    write_atomic(tmp_path / "model.onnx", b"content")
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {".tmp-rnnx-pipe", ".tmp-rnnx-folder", ".tmp-rnnx-link", "kept", "model.onnx"}


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_of_files_that_belong_together_none_takes_its_place_before_all_are_made(tmp_path, monkeypatch, failing):
    paths = [tmp_path / name for name in ("model.pt", "model.parity.json", "model.onnx")]
    for path in paths:
        path.write_bytes(b"old")
    calls, real = [], os.fsync

    def fail(descriptor):
        calls.append(descriptor)
        if len(calls) == failing:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="cannot be written: No space left on device; free some space") as raised:
        write_together(dict.fromkeys(paths, b"new"))
    assert raised.value.filename == str(paths[failing - 1])
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == dict.fromkeys(paths, b"old")


def test_files_that_belong_together_take_their_places_in_order_and_one_may_go(tmp_path, monkeypatch):
    order, real = [], os.replace
    monkeypatch.setattr(os, "replace", lambda old, new: order.append(Path(new).name) or real(old, new))
    (tmp_path / "gone").touch()
    write_together({tmp_path / "one": b"1", tmp_path / "gone": None, tmp_path / "never": None, tmp_path / "last": b"2"})
    assert order == ["one", "last"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last", "one"]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444])
def test_a_file_hands_on_its_permissions(tmp_path, mode):
    (tmp_path / "model.onnx").touch()
    (tmp_path / "model.onnx").chmod(mode)
    write_atomic(tmp_path / "model.onnx", b"content")
    assert stat.S_IMODE((tmp_path / "model.onnx").stat().st_mode) == mode


def test_what_a_link_points_to_is_replaced(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.onnx").symlink_to("folder/model.onnx")
    write_atomic(tmp_path / "link.onnx", b"content")
    assert (tmp_path / "link.onnx").is_symlink()
    assert [path.read_bytes() for path in (tmp_path / "folder").iterdir()] == [b"content"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("n" * 300, "cannot be written: File name too long; give a shorter name"),
        ("circle", "cannot be written: .*; its links lead in a circle; give another path"),
        ("null\0", "is no path; give another"),
        ("pipe", "is not a regular file; write somewhere else"),
        ("file/model.onnx", "is a file, not a folder; write somewhere else"),
    ],
)
def test_what_is_no_place_for_a_file_is_said_with_the_remedy(tmp_path, name, said):
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    before = sorted(tmp_path.iterdir())
    for check in (check_writable, lambda path: write_atomic(path, b"")):
        with pytest.raises(OSError, match=said):
            check(tmp_path / name)
    assert sorted(tmp_path.iterdir()) == before
