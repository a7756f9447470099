"""Files that pose as weights, for F19: made by hand, for most of them no library writes."""

import builtins
import io
import json
import os
import pickle
import struct
import subprocess
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any, Final

import safetensors.torch
import torch
from torch import Tensor, nn

CANARY: Final = "executed"  # the file that code in one of them makes
TOUCH: Final = f"open({CANARY!r}, 'w')"
Weights = Mapping[str, Tensor]


class Calls:
    """Pickled, a call of a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.reduced = function, arguments

    def __reduce__(self) -> tuple[Any, Any]:
        return self.reduced


def zipped(data: bytes, records: Mapping[str, bytes] = {}, *, method: int = zipfile.ZIP_STORED) -> bytes:
    """A zip as torch.save writes it, around a pickle."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        archive.writestr("archive/data.pkl", data)
        for name, record in {"byteorder": b"little", "version": b"3\n", **records}.items():
            archive.writestr(f"archive/{name}", record)
    return out.getvalue()


def saved(given: Any, **options: Any) -> bytes:
    out = io.BytesIO()
    torch.save(given, out, **options)
    return out.getvalue()


def dictionary(operations: bytes) -> bytes:
    """A pickle of {"fc.bias": what these operations make}."""
    return b"\x80\x02}X\x07\x00\x00\x00fc.bias" + operations + b"s."


def tensor(
    kind: bytes = b"torch\nFloatStorage",
    key: str = "0",
    size: int = 2,
    offset: int = 0,
    shape: tuple[Any, ...] = (2,),
    strides: tuple[int, ...] = (1,),
    call: bytes = b"torch._utils\n_rebuild_tensor_v2",
) -> bytes:
    """The operations that name a tensor, whatever they say of it."""
    plain = [pickle.dumps(one, protocol=2)[2:-1] for one in (key, "cpu", size, offset, shape, strides, False)]
    storage = b"(X\x07\x00\x00\x00storagec" + kind + b"\n" + b"".join(plain[:3]) + b"tQ"
    return b"c" + call + b"\n(" + storage + b"".join(plain[3:]) + b"}tR"


def pickles() -> Iterator[tuple[str, bytes]]:
    """Pickles that run code, or take time or memory."""
    calls = {
        "os.system": Calls(os.system, f"touch {CANARY}"),
        "exec": Calls(builtins.exec, TOUCH),
        "eval": Calls(builtins.eval, TOUCH),
        "open": Calls(open, CANARY, "w"),
        "subprocess": Calls(subprocess.check_call, ["touch", CANARY]),
        "torch.load": Calls(torch.load, "inner.pt"),
    }
    for name, call in calls.items():
        for protocol in range(6):
            yield f"{name}, protocol {protocol}", pickle.dumps({"fc.bias": call}, protocol=protocol)
    touch = b"X" + struct.pack("<I", len(TOUCH)) + TOUCH.encode()
    executed = b"cbuiltins\nexec\n" + touch + b"\x85R"
    yield "exec of Python 2", dictionary(b"c__builtin__\nexec\n" + touch + b"\x85R")
    yield "exec by an instance", dictionary(b"(" + touch + b"ibuiltins\nexec\n")
    yield "exec by an object", dictionary(b"(cbuiltins\nexec\n" + touch + b"o")
    yield "exec by names on the stack", dictionary(b"\x8c\x08builtins\x8c\x04exec\x93" + touch + b"\x85R")
    yield "exec as a state", dictionary(b"ccollections\nOrderedDict\n)R" + executed + b"b")
    yield "exec among hooks", dictionary(tensor()[:-3] + executed + b"tR")
    yield "exec as a key", b"\x80\x02}" + executed + b"K\x01s."
    yield "exec as a place", dictionary(executed + b"Q")
    yield "an attribute of what is allowed", dictionary(b"ccollections\nOrderedDict.fromkeys\n)R")
    yield "an extension", dictionary(b"\x82\x01")
    yield "memory for a number", dictionary(b"Nr\xff\xff\xff\x7f")
    yield "a text of 4 GB", dictionary(b"X\xff\xff\xff\xff")
    yield "bytes of 2^62", dictionary(b"\x8e" + struct.pack("<Q", 2**62))
    yield "a number of 2 GB", dictionary(b"\x8b" + struct.pack("<i", 2**31 - 1))
    yield "a bytearray of 8 GB", dictionary(b"c__builtin__\nbytearray\n\x8a\x05\x00\x00\x00\x00\x02\x85R")
    yield "a key that takes ages", b"\x80\x02}K\x01\x85" + b"2\x86" * 64 + b"K\x01s."
    yield "a key that takes ages, remembered", b"\x80\x02}K\x01\x85" + b"q\x00h\x00\x86" * 64 + b"K\x01s."
    yield "a list in a list in a list", dictionary(b"]" * 100_000 + b"a" * 99_999)
    yield "three million lists", dictionary(b"(" + b"]" * 3_000_000 + b"t")
    yield "nothing", b""
    yield "no end", b"\x80\x02}"
    yield "what is not there", b"\x80\x02R."
    yield "a mark that is not there", b"\x80\x02}u."


def tensors() -> Iterator[tuple[str, bytes]]:
    """Tensors that are not what is said of them, where there are 8 bytes of values."""
    yield "more values than bytes", tensor(size=10**9, shape=(10**9,))
    yield "fewer values than bytes", tensor(size=1, shape=(1,))
    yield "a shape beyond its values", tensor(shape=(3,))
    yield "an offset beyond its values", tensor(offset=2)
    yield "an offset before them", tensor(offset=-1)
    yield "a stride of nought", tensor(shape=(10**6, 10**6), strides=(0, 0))
    yield "values that overlap", tensor(shape=(2, 1, 1), strides=(0, 1, 1))
    yield "strides before them", tensor(strides=(-1,))
    yield "a shape below nought", tensor(shape=(-2,))
    yield "a huge shape of nought", tensor(shape=(2**62, 0), strides=(1, 1))
    yield "a shape that is none", tensor(shape=("a",))
    yield "more strides than axes", tensor(strides=(1, 1))
    yield "a hundred thousand axes", tensor(shape=(2**62,) * 100_000, strides=(1,) * 100_000)
    yield "another key", tensor(key="../../version")
    yield "complex", tensor(b"torch\nComplexFloatStorage")
    yield "quantised bytes", tensor(b"torch\nQUInt8Storage")
    yield "bytes of no type", tensor(b"torch.storage\nUntypedStorage")
    yield "another type", tensor(b"torch\nIntStorage")
    yield "a sparse one", tensor(call=b"torch._utils\n_rebuild_sparse_tensor")
    yield "a meta one", tensor(call=b"torch._utils\n_rebuild_meta_tensor_no_storage")
    yield "a nested one", tensor(call=b"torch._utils\n_rebuild_nested_tensor")
    yield "one with a type of its own", tensor(call=b"torch._tensor\n_rebuild_from_type_v2")


def torch_files(weights: Weights, net: nn.Module) -> Iterator[tuple[str, bytes]]:
    """Files that end in .pt; some of one name in several disguises."""
    for name, data in pickles():
        yield name, zipped(data)
    for name, data in list(pickles())[:6]:
        yield f"{name}, without a zip", data
        yield f"{name}, compressed", zipped(data, method=zipfile.ZIP_DEFLATED)
        yield f"{name}, in a zip in a zip", zipped(zipped(data))
        yield f"{name}, before another zip", zipped(data) + zipped(pickle.dumps({}, 2))
        yield f"{name}, in a tar", tarred(data)
    for name, operations in tensors():
        yield name, zipped(dictionary(operations), {"data/0": bytes(8)})
    for name, changed in changes(weights, "fc.bias"):
        yield name, saved(changed)
    yield "the module", saved(net)
    yield "a module of 2018", saved(net, _use_new_zipfile_serialization=False)
    yield "weights of 2018", saved(weights, _use_new_zipfile_serialization=False)
    yield "another protocol", saved(weights, pickle_protocol=4)
    script = io.BytesIO()
    torch.jit.save(torch.jit.trace(net, torch.zeros(2, 5, 3), check_trace=False), script)
    yield "TorchScript", script.getvalue()
    bias = torch.zeros(2)
    yield "a sparse weight", saved({**weights, "fc.bias": bias.to_sparse()})
    yield "a quantised weight", saved({**weights, "fc.bias": torch.quantize_per_tensor(bias, 1.0, 0, torch.qint8)})
    yield "a weight without values", saved({**weights, "fc.bias": torch.empty(2, device="meta")})
    yield "one value for all", saved({**weights, "fc.bias": torch.zeros(1).expand(2)})
    yield "every second value", saved({**weights, "fc.bias": torch.zeros(4)[::2]})
    yield "a weight in no state_dict", saved(bias)
    yield "numbers", saved({"fc.bias": 1.0})
    with zipfile.ZipFile(io.BytesIO(saved(weights))) as archive:
        parts = {name.split("/", 1)[1]: archive.read(name) for name in archive.namelist()}
    pickled = parts.pop("data.pkl")
    yield "of another byte order", zipped(pickled, parts | {"byteorder": b"big"})
    yield "without a weight's bytes", zipped(pickled, {name: part for name, part in parts.items() if name != "data/0"})
    yield "two pickles", zipped(pickled, parts | {"more/data.pkl": pickled})
    yield "compressed weights", zipped(pickled, parts, method=zipfile.ZIP_DEFLATED)
    many = dictionary(tensor(size=2**26, shape=(2**26,)))
    yield "a bomb of weights", zipped(many, {"data/0": bytes(2**28)}, method=zipfile.ZIP_DEFLATED)
    yield "a bomb of a pickle", zipped(b"\x80\x02" + bytes(2**28), method=zipfile.ZIP_DEFLATED)
    yield "a pickle of 8 MB", zipped(dictionary(b"]" * (8 << 20)))
    yield "many parts", zipped(pickled, {f"data/{'n' * 80}{number}": b"" for number in range(40_000)})


def safetensors_files(weights: Weights, key: str, metadata: dict[str, str] | None = None) -> Iterator[tuple[str, bytes]]:
    """Files of safetensors; what is changed in most of them is the tensor of this name, which has 4 bytes a value."""
    for name, changed in changes(weights, key):
        yield name, safetensors.torch.save({one: tensor.contiguous() for one, tensor in changed.items()}, metadata)

    def made(header: Any, data: bytes, size: int | None = None) -> bytes:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        return struct.pack("<Q", len(text) if size is None else size) + text + data

    whole = safetensors.torch.save(dict(weights), metadata)
    length = struct.unpack("<Q", whole[:8])[0]
    header, data = json.loads(whole[8 : 8 + length]), whole[8 + length :]
    one = header[key]
    begin, end = one["data_offsets"]
    size = end - begin
    empty = one | {"shape": [0], "data_offsets": [0, 0]}
    yield "a header of 2^63 bytes", made(header, data, 2**63)
    yield "a header of all bytes and one", made(header, data, len(whole) - 7)
    yield "no header", made(b"", data, 0)
    yield "a header of 100 MB", made(json.dumps(header).encode() + b" " * (99 << 20), data)
    yield "a header of many names", made({str(number): empty for number in range(100_000)}, b"")
    yield "a header in a list in a list", made(b"[" * 100_000, data)
    yield "a header that is no text", made(b"\xff" * 200, data)
    yield "more bytes", made(header, data + b"more")
    yield "fewer bytes", made(header, data[:-1])
    yield "a name twice", made(json.dumps(header).encode()[:-1] + f", {json.dumps(key)}: {json.dumps(one)}}}".encode(), data)
    for name, change in {
        "offsets in another's": {"data_offsets": [begin + 4, end + 4]},
        "offsets beyond the file": {"data_offsets": [10**12, 10**12 + size]},
        "offsets before the file": {"data_offsets": [-size, 0]},
        "offsets turned round": {"data_offsets": [end, begin]},
        "a huge shape": {"shape": [2**62, 2**62]},
        "a shape below nought": {"shape": [-2]},
        "a type that is none": {"dtype": "F1024"},
        "a type of more bytes": {"dtype": "F64"},
        "another type of as many bytes": {"dtype": "I32"},
        "a float of 8 bits": {"dtype": "F8_E4M3", "shape": [size]},
        "complex": {"dtype": "C64", "shape": [size // 8]},
    }.items():
        yield name, made(header | {key: one | change}, data)


def changes(weights: Weights, key: str) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """State dicts that do not fit, or cannot be computed with; most by the tensor of this name."""
    plain = OrderedDict(weights)
    one = weights[key]
    others = {name: tensor for name, tensor in plain.items() if name != key}
    yield "nothing in it", {}
    yield "one missing", others
    yield "one more", {**plain, f"{key}2": one.clone()}
    yield "one renamed", {**others, f"{key}2": one}
    yield "a name of many lines", {**plain, f"{key}\x1b[2J\nError: all is well\n": one.clone()}
    yield "a name of a million letters", {**plain, key + "n" * 1_000_000: one.clone()}
    for name, value in {"NaN": float("nan"), "infinity": float("inf"), "less than any": -float("inf")}.items():
        yield name, {**others, key: torch.cat([one[1:], torch.tensor([value])])}
    for dtype in (torch.float64, torch.int64, torch.int32, torch.uint8, torch.bool, torch.complex64):
        yield f"of {dtype}", {**others, key: one.to(dtype)}
    yield "of another shape", {**others, key: one[None].clone()}
    yield "of DataParallel", {f"module.{name}": tensor for name, tensor in plain.items()}


def tarred(data: bytes) -> bytes:
    """As torch saved before 2017."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name in ("sys_info", "storages", "tensors", "pickle"):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


# What a header of ours says otherwise.
HEADERS: Final[dict[str, dict[str, Any]]] = {
    "a model that is none": {"model": "\x1b[2J" + "m" * 10_000},
    "no config": {"config": None},
    "a size of another type": {"config": {"hidden": "8"}},
    "a size below nought": {"config": {"hidden": -1}},
    "a huge size": {"config": {"hidden": 10**9}},
    "a size beyond all numbers": {"config": {"hidden": 10**400}},
    "a billion layers": {"config": {"layers": 10**9}},
    "no layers": {"config": {"layers": 0}},
    "a size that it has not": {"config": {"\x1b[2J" + "h" * 10_000: 1}},
    "a field that it has not": {"surprise": 1},
    "a seed of text": {"seed": "s"},
}
