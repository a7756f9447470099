"""The seal: the SHA-256 of the file, inside the file.

The last 81 bytes of an artifact are one protobuf entry, `metadata_props["rnnx.sha256"]`, whose value is the digest of
every byte before it. Other ONNX tools see ordinary metadata; changing one byte breaks the seal.
"""

import hashlib
from typing import Final

from rnnx_runtime._errors import ArtifactError

SEAL_KEY: Final = "rnnx.sha256"
_DIGEST_SIZE: Final = 64
# ModelProto field 14 (metadata_props), length 79: { key (field 1): "rnnx.sha256", value (field 2): 64 hex digits }
_PREFIX: Final = b"\x72\x4f\x0a\x0b" + SEAL_KEY.encode() + b"\x12\x40"
SEAL_SIZE: Final = len(_PREFIX) + _DIGEST_SIZE


def seal(model: bytes) -> bytes:
    """`model`, a serialised ONNX ModelProto without a seal, with its seal appended."""
    return model + _PREFIX + hashlib.sha256(model).hexdigest().encode()


def check_seal(data: bytes) -> str:
    """The digest of a sealed artifact, 64 hex digits.

    Raises:
        ArtifactError: there is no seal at the end of `data`, or the bytes before it have another digest.
    """
    content, tail = memoryview(data)[:-SEAL_SIZE], data[-SEAL_SIZE:]
    if len(tail) < SEAL_SIZE or not tail.startswith(_PREFIX):
        raise ArtifactError(
            "not a sealed rnnx artifact: the seal at the end of the file is missing; "
            "the file was cut, re-saved by another tool, or not made by `rnnx export`"
        )
    digest = hashlib.sha256(content).hexdigest()
    if tail[len(_PREFIX) :] != digest.encode():
        raise ArtifactError(
            "the seal is broken: the content does not have the digest written in the file, so at least one byte "
            "was changed; copy the artifact again, or export it again"
        )
    return digest
