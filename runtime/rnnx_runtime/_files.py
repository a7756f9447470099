"""Files: read once and whole, written whole or not at all. Every file that somebody keeps is written here.

A file is made under another name in the same folder, brought to the disk, and then renamed: a reader, or a crash at any moment,
sees the old file or the new one. What a crash leaves of the making is removed by the next writing in that folder; the lock that
a living writer holds tells the two apart.

No file system renames two files at once. Of files that belong together one, the artifact, stands for all: all are made before
the first is renamed, the artifact is renamed last, and each of the others says in itself which artifact it belongs to. After a
crash between two renamings, or two writers at once, that is how a reader sees that they are not of one making.
"""

import errno
import os
import stat
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Self, final

from rnnx_runtime._errors import ArtifactError, ArtifactNotFoundError

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

Source = str | os.PathLike[str] | bytes | bytearray | memoryview  # a path, or the content of a file

_TEMPORARY = ".tmp-rnnx-"
_REMEDIES = {
    errno.ENOSPC: "free some space, or write to another disk",
    errno.EDQUOT: "free some of your quota, or write to another disk",
    errno.EFBIG: "allow larger files (ulimit -f), or write to another disk",
    errno.EIO: "look after the disk, or write to another",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ELOOP: "its links lead in a circle; give another path",
}


def read_regular(path: str | os.PathLike[str], limit: int) -> bytes:
    """The bytes of a regular file of at most `limit` bytes.

    The file is opened, checked and read through one descriptor, so that what was checked is what is read.

    Raises:
        ArtifactNotFoundError: there is nothing at `path`.
        ArtifactError: it is a folder, a device or a pipe, it cannot be read, or it is too large.
    """
    try:
        # O_NONBLOCK: opening a pipe must not wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        raise ArtifactNotFoundError(f"no file at {os.fspath(path)!r}; make an artifact with `rnnx export`") from None
    except (OSError, ValueError) as error:  # ValueError: a path with a null or lone surrogates
        reason = error.strerror if isinstance(error, OSError) else error
        raise ArtifactError(f"cannot open {os.fspath(path)!r}: {reason}") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise ArtifactError(f"{os.fspath(path)!r} is {kind}; give the path of an artifact, for example model.onnx")
        if status.st_size > limit:
            raise ArtifactError(f"{os.fspath(path)!r} has {status.st_size} bytes; at most {limit} are read")
        with open(descriptor, "rb", closefd=False) as file:
            # Room for no more than there is: memory that is asked for in vain takes as long as the reading.
            data = file.read(status.st_size + 1)
        if len(data) > status.st_size:
            raise ArtifactError(f"{os.fspath(path)!r} grew while it was read; try again when it is whole")
        return data
    except OSError as error:
        raise ArtifactError(f"cannot read {os.fspath(path)!r}: {error.strerror}") from None
    finally:
        os.close(descriptor)


def check_writable(path: str | os.PathLike[str]) -> None:
    """Find out, before hours of work, that a file cannot be written at `path`. A link is followed.

    Raises:
        OSError: it is a folder, no regular file or no path at all, or the nearest folder above it that exists cannot be written
            or is none.
    """
    from pathlib import Path  # here, as below: whoever only reads artifacts need not wait for it

    try:
        mode = Path(path).stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        mode = None
    except OSError as error:
        raise _explained(error, path) from None
    except ValueError:  # a null, or a lone surrogate
        raise OSError(errno.EINVAL, "is no path; give another", repr(path)) from None
    if mode is not None and stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "is a folder; give the path of a file", os.fspath(path))
    if mode is not None and not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "is not a regular file; write somewhere else", os.fspath(path))
    folder = next(parent for parent in Path(path).resolve().parents if parent.exists())
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "is a file, not a folder; write somewhere else", str(folder))
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "this folder cannot be written; write somewhere else", str(folder))


def write_atomic(path: str | os.PathLike[str], data: bytes) -> None:
    """Put `data` at `path` so that a reader, or a crash at any moment, sees the old file or the new one.

    Missing parent folders are made. What a link points to is replaced, not the link. A file that is there hands on its
    permissions.

    Raises:
        OSError: the folder cannot be written, the disk is full, ...; what was at `path` is untouched. It names `path`, and says
            what to do.
    """
    write_together({path: data})


def write_together(files: Mapping[str | os.PathLike[str], bytes | None]) -> None:
    """Files that belong together, each as by `write_atomic`: all are made before the first, in the order given, takes its place.

    The artifact comes last; those before it say in themselves which artifact they belong to. None removes a file.

    Raises:
        OSError: one cannot be written. Nothing has taken its place yet, unless the disk refused the renaming itself.
    """
    from pathlib import Path

    for path in files:
        check_writable(path)
    with ExitStack() as temporaries:
        made: list[tuple[Path, _Temporary | None]] = []
        try:
            for path, data in files.items():
                target = Path(path).resolve()  # what a link points to is replaced, not the link
                made.append((target, None if data is None else temporaries.enter_context(_Temporary(target, data))))
            for path, temporary in made:
                if temporary is not None:
                    temporary.take_its_place()
                else:
                    path.unlink(missing_ok=True)
        except OSError as error:
            raise _explained(error, path) from None


@final
class _Temporary:
    """What is to be at `target`, on the disk under another name. At the end of the block it is gone, wherever the block ends."""

    def __init__(self, target: "Path", data: bytes) -> None:
        self._target, self._data = target, data

    def __enter__(self) -> Self:
        self._target.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(self._target.parent)
        mode = stat.S_IMODE(self._target.stat().st_mode) if self._target.exists() else None
        self._path, self._descriptor = _create(self._target.parent, 0o666 if mode is None else mode)
        try:
            if mode is not None:
                with suppress(OSError):  # not all file systems have permissions
                    self._path.chmod(mode)  # what the umask took
            rest = memoryview(self._data)
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
            os.fsync(self._descriptor)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def take_its_place(self) -> None:
        if os.name == "nt":  # an open file cannot be renamed there
            self._close()
        self._path.replace(self._target)
        _sync_folder(self._target.parent)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: "TracebackType | None", /
    ) -> None:
        with suppress(OSError):
            self._path.unlink(missing_ok=True)
        self._close()

    def _close(self) -> None:
        if self._descriptor >= 0:
            with suppress(OSError):
                os.close(self._descriptor)
        self._descriptor = -1


def _create(folder: "Path", mode: int) -> "tuple[Path, int]":
    """A new file that no other process takes for abandoned: its name, and a descriptor that holds its lock."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    while True:
        path = folder / f"{_TEMPORARY}{os.urandom(8).hex()}"
        descriptor = os.open(path, flags, mode)
        try:
            _lock(descriptor)
        except BlockingIOError:
            pass  # before it had its lock, it was taken for abandoned
        except OSError:
            return path, descriptor  # there are no locks here, and nothing is taken for abandoned
        else:
            if os.fstat(descriptor).st_nlink:
                return path, descriptor
        os.close(descriptor)


def _remove_abandoned(folder: "Path") -> None:
    """Remove what writers that were killed have left: what can be locked is nobody's. Where that cannot be told it is left."""
    with suppress(OSError):
        for path in folder.glob(f"{_TEMPORARY}*"):
            with suppress(OSError):
                descriptor = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
                try:
                    if stat.S_ISREG(os.fstat(descriptor).st_mode):
                        _lock(descriptor)
                        path.unlink()
                finally:
                    os.close(descriptor)


def _lock(descriptor: int) -> None:
    """Take a file's lock, which ends with the descriptor, and so with the process.

    Raises:
        BlockingIOError: another has it. OSError: there are no locks here.
    """
    try:
        import fcntl
    except ImportError:
        raise OSError(errno.ENOTSUP, "no locks here") from None
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _explained(error: OSError, path: str | os.PathLike[str]) -> OSError:
    """The same error of the file that was asked for, with what to do."""
    remedy = _REMEDIES.get(error.errno or 0, "write somewhere else")
    return OSError(error.errno, f"cannot be written: {error.strerror or error}; {remedy}", os.fspath(path))


def _sync_folder(folder: "Path") -> None:
    """Make the renaming itself durable, where the system has folders that can be opened (not Windows).

    Where that fails the file is whole and in its place all the same: some file systems can't, some folders may not be read.
    """
    if not hasattr(os, "O_DIRECTORY"):
        return
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
