"""How fast an artifact is on this machine, beside other ways to run the same model. Only the peers that are torch need torch.

`samples` (what is given) → `contenders` (ours, `onnx_peers`, `torch_peers`, `openvino_peer`), chosen by `peers`; `workloads`
(what else is measured of ours) → `timing` → `measurement` → `report`, of `figures` and with its `advice` → `page`, `picture`.
"""

from rnnx._bench.measurement import bench
from rnnx._bench.report import Bench

__all__ = ["Bench", "bench"]
