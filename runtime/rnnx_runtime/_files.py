"""Files: read once and whole, written whole or not at all."""

import errno
import os
import stat
from typing import TYPE_CHECKING

from rnnx_runtime._errors import ArtifactError, ArtifactNotFoundError

if TYPE_CHECKING:
    from pathlib import Path

Source = str | os.PathLike[str] | bytes | bytearray | memoryview  # a path, or the content of a file

_TEMPORARY = ".tmp-rnnx-"


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
    """Find out, before hours of work, that a file cannot be written at `path`.

    Raises:
        OSError: it is a folder, or the nearest folder above it that exists cannot be written or is none.
    """
    from pathlib import Path  # here, as below: whoever only reads artifacts need not wait for it

    target = Path(path)
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder; give the path of a file", str(target))
    if target.exists() and not target.is_file():
        raise OSError(errno.EINVAL, "is not a regular file; write somewhere else", str(target))
    folder = next(parent for parent in target.absolute().parents if parent.exists())
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "is a file, not a folder; write somewhere else", str(folder))
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "this folder cannot be written; write somewhere else", str(folder))


def write_atomic(path: str | os.PathLike[str], data: bytes) -> None:
    """Put `data` at `path` so that a reader, or a crash at any moment, sees the old file or the new one.

    Missing parent folders are made.

    Raises:
        OSError: the folder cannot be written, the disk is full, ...; what was at `path` is untouched.
    """
    import tempfile
    from pathlib import Path

    check_writable(path)
    target = Path(path).resolve()  # what a link points to is replaced, not the link
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=_TEMPORARY, dir=target.parent)
    temporary = Path(name)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def _umask() -> int:
    """The permission mask that a plain `open` would have applied; mkstemp makes private files."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _sync_folder(folder: "Path") -> None:
    """Make the renaming itself durable, where the system has folders that can be opened (not Windows)."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # some file systems can't; the file itself is whole and in its place
    finally:
        os.close(descriptor)
