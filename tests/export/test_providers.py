"""The whole parity suite on every other execution provider that this machine has."""

from pathlib import Path

import pytest
import torch
from tests.export.corpus import STYLES
from tests.golden.make import CharRnn, Gru, Lstm

import rnnx
from rnnx._parity import prove
from rnnx._quiet import quiet
from rnnx._readings import lift as find_lift
from rnnx_runtime import ProviderError, list_providers, load

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
    model = load(done.path, providers=provider)
    assert model.placement.granted == (provider,)
    with quiet():
        report = prove(find_lift(module, given, None, None), model)
    assert report.passed, report.table()


@pytest.mark.parametrize("provider", SECOND or [pytest.param("none", marks=pytest.mark.skip(reason=WHY_NONE))])
def test_what_it_computes_wrongly_is_refused(provider, tmp_path):
    """OpenVINO disregards the lengths of padded batches."""
    style = next(style for style in STYLES if style.name == "packed_tagger")
    done = rnnx.export(style.make(), style.example(), tmp_path / "model.onnx")
    try:
        model, refused = load(done.path, providers=provider), ""
    except ProviderError as error:
        model, refused = None, str(error)
    if model is None:
        assert "runs this artifact wrongly: its golden trace is off by " in refused
    else:
        with quiet():
            assert prove(find_lift(style.make(), style.example(), None, None), model).passed
