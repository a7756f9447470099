"""The whole parity suite on every other execution provider that this machine has."""

from pathlib import Path

import pytest
import torch
from tests.export.corpus import STYLES
from tests.golden.make import CharRnn, Gru, Lstm

import rnnx
from rnnx_runtime import ProviderError, list_providers

GOLDEN = Path(__file__).parent.parent / "golden"
REPORTS = list_providers(GOLDEN / "lstm.onnx")
# One that cannot start is not here either: builds for CUDA say that they have it wherever they are installed.
SECOND = [one.name for one in REPORTS if one.name != "cpu" and one.here and not one.because.startswith("fails: ")]
WHY_NONE = "; ".join(f"{one.name}: {one.because}" for one in REPORTS if one.name in ("cuda", "tensorrt", "openvino"))
EXPORTED = {
    "char_rnn": (CharRnn, lambda: torch.tensor([[0, 1, 2, 2, 3], [3, 2, 1, 0, 1]])),
    "lstm": (Lstm, lambda: (torch.randn(2, 5, 3), torch.zeros(1, 2, 5), torch.zeros(1, 2, 5))),
    "gru": (Gru, lambda: torch.randn(5, 2, 3)),
}
# One style of each kind: layers with a learned start, cells in a loop, a step-only module, projections, kept state, convolutions.
NAMES = "learned_start_lm sine_cells lstm_under_gru ppo_masked_step gru_cell_masked_loop buffer_copied conv_lstm step_decoder".split()
STYLED = {style.name: (style.make, style.example) for style in STYLES if style.name in NAMES and not style.kwargs}


@pytest.mark.parametrize("provider", SECOND or [pytest.param("none", marks=pytest.mark.skip(reason=WHY_NONE))])
@pytest.mark.parametrize("name", [*EXPORTED, *STYLED])
def test_the_gate_passes_on_it(provider, name, tmp_path):
    make, example = (EXPORTED | STYLED)[name]
    module, given = make(), example()
    done = rnnx.export(module, given, tmp_path / "model.onnx")
    found = rnnx.verify(done.path, module, given, providers=provider)
    assert found.parity.providers == (provider,)
    assert found.passed, str(found)


@pytest.mark.parametrize("provider", SECOND or [pytest.param("none", marks=pytest.mark.skip(reason=WHY_NONE))])
def test_what_it_computes_wrongly_is_refused(provider, tmp_path):
    """OpenVINO disregards the lengths of padded batches."""
    style = next(style for style in STYLES if style.name == "packed_tagger")
    done = rnnx.export(style.make(), style.example(), tmp_path / "model.onnx")
    right = next(one for one in list_providers(done.path) if one.name == provider).difference < 1e-4
    if right:
        assert rnnx.verify(done.path, style.make(), style.example(), providers=provider).passed
    else:
        with pytest.raises(ProviderError, match="runs this artifact wrongly: its golden trace is off by "):
            rnnx.verify(done.path, style.make(), style.example(), providers=provider)
