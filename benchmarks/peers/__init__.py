"""The peers: others that run the same model, each in a file of its own, all behind one interface, `Peer`.

Imports none of them: a peer's package is imported where it is first used, and one that is not installed is skipped with the reason.
"""

from typing import Final

from benchmarks.peers.bindings import BoundDynamic, BoundExported, BoundMinimal
from benchmarks.peers.by_hand import Numpy
from benchmarks.peers.eager import Cells, Eager, TorchScript
from benchmarks.peers.litert import LiteRt
from benchmarks.peers.ncnn import Ncnn
from benchmarks.peers.openvino import OpenVino, OpenVinoDefault
from benchmarks.peers.ours import Ours
from benchmarks.peers.peer import NotApplicableError, Peer, Run, Subject
from benchmarks.peers.session_run import SessionRun
from benchmarks.peers.tract import Tract

__all__ = [
    "ALL",
    "BoundDynamic",
    "BoundExported",
    "BoundMinimal",
    "Cells",
    "Eager",
    "LiteRt",
    "Ncnn",
    "NotApplicableError",
    "Numpy",
    "OpenVino",
    "OpenVinoDefault",
    "Ours",
    "Peer",
    "Run",
    "SessionRun",
    "Subject",
    "TorchScript",
    "Tract",
]

ALL: Final[tuple[type[Peer], ...]] = (
    Ours,
    BoundMinimal,
    BoundExported,
    SessionRun,
    LiteRt,
    OpenVino,
    Tract,
    Ncnn,
    Numpy,
    TorchScript,
    Cells,
    Eager,
)
