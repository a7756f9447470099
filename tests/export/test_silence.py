"""What the exporter does against denormal numbers."""

import numpy as np
import pytest
import torch
from torch import nn

import rnnx
from rnnx_runtime import load


@pytest.mark.parametrize("kind", ["GRU", "LSTM"])
def test_zero_biases_keep_a_silent_state_above_denormal_numbers(kind, tmp_path):
    """Denormal numbers are 25 times as slow, and a GRU whose update gate is open never leaves them."""
    layer = getattr(nn, kind)(3, 8, batch_first=True)
    for name, weight in layer.named_parameters():
        if name.startswith("bias"):
            nn.init.zeros_(weight)
    nn.init.ones_(layer.bias_ih_l0.data[8:16])  # torch's rzn and ifgo: what keeps the state
    stream = load(rnnx.export(layer, torch.randn(2, 5, 3), tmp_path / "model.onnx", proof="quick").path).stream()
    stream.feed(np.ones((1, 5, 3), np.float32))
    for _ in range(20):
        stream.feed(np.zeros((1, 100, 3), np.float32))
        assert all(1e-35 < np.abs(array).min() < 1e-2 for array in stream.state.values())
