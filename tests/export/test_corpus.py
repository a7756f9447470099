"""Other people's styles: each is exported unmodified and proven, or refused with a message that helps."""

import os

import numpy as np
import pytest
import torch
from tests.export.corpus import STYLES
from tests.export.corpus._table import PAGE, page, row
from tests.versions import HEADING as VERSIONS
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import rnnx
from rnnx_runtime import load

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")


def fingerprint(module: nn.Module) -> list[object]:
    """Everything that a module holds: weights, buffers, attributes, modes."""
    held: list[object] = []
    for path, part in module.named_modules():
        for name, value in sorted({**vars(part), **part._parameters, **part._buffers}.items()):
            if not name.startswith("_"):
                leaves = pytree.tree_leaves(value)
                held += [(path, name, leaf.clone().numpy().tobytes() if isinstance(leaf, Tensor) else leaf) for leaf in leaves]
    return held


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What became of a style; each is exported once."""
    done: dict[str, tuple[object, bool]] = {}
    folder = tmp_path_factory.mktemp("corpus")

    def outcome(style):
        if style.name not in done:
            torch.manual_seed(0)
            module, example = style.make(), style.example()
            with torch.no_grad():
                before = fingerprint(module)
            try:
                result = rnnx.export(module, example, folder / f"{style.name}.onnx", **style.kwargs)
            except rnnx.ExportError as error:
                result = error
            with torch.no_grad():
                done[style.name] = result, fingerprint(module) == before
        return done[style.name]

    return outcome


@pytest.mark.parametrize("style", [s for s in STYLES if s.group != "refused"], ids=lambda style: style.name)
def test_exported(style, outcomes):
    done, untouched = outcomes(style)
    assert isinstance(done, rnnx.Exported), done
    assert untouched
    assert done.parity.passed
    assert not done.lint.findings, str(done.lint)
    assert done.torchscript is not None, done.torchscript_refused
    assert done.manifest.streamable == (style.group != "sequence only")
    checks = {case.label for case in done.parity.cases}
    assert {"untouched", "whole", "torchscript whole"} <= checks
    assert ({"one step", "visited", "chunks", "steps", "torchscript chunks"} <= checks) == done.manifest.streamable
    assert (done.parity.trajectory is not None) == done.manifest.streamable
    assert not done.manifest.streamable or done.parity.trajectory.steps == 10_000
    assert ("reference" in checks) != bool(done.parity.no_second_opinion_because)
    assert "protocol" in checks or not done.manifest.chunks_matter_because


@pytest.mark.parametrize("style", [s for s in STYLES if s.group == "refused"], ids=lambda style: style.name)
def test_refused(style, outcomes):
    error, untouched = outcomes(style)
    assert isinstance(error, rnnx.ExportError)
    assert untouched
    assert style.refusal in str(error)
    assert len(str(error)) < 600


def test_the_page_says_what_is_so(outcomes):
    made = page(STYLES, {style.name: row(style, outcomes(style)[0]) for style in STYLES})
    written, *versions = PAGE.read_text(encoding="utf-8").partition(VERSIONS)
    if os.environ.get("RNNX_WRITE_SUPPORTED"):
        PAGE.write_text("".join([made, *versions]), encoding="utf-8")
    assert written == made, "make supported writes docs/supported.md anew"


@pytest.mark.parametrize("name", ["names_rnn", "policy_hx_cx", "impala_masked_loop", "lstm_matrices", "kept_hidden_none"])
def test_stepping_by_hand_is_what_the_owner_does(name, outcomes):
    """Against the module called by its owner, not through anything of the exporter."""
    style = next(style for style in STYLES if style.name == name)
    done, _ = outcomes(style)
    torch.manual_seed(0)
    module = style.make().eval()
    stream = load(done.path).stream(batch=OWNERS[name].batch)
    for inputs, expected in OWNERS[name].steps(module):
        answer = stream.step({key: value.numpy() for key, value in inputs.items()})
        found = list(answer.values()) if isinstance(answer, dict) else [answer]
        for have, want in zip(found, expected, strict=True):
            np.testing.assert_allclose(have, want.numpy(), atol=1e-5, rtol=1e-4)


class Owner:
    """Calls a module as the person who wrote it does: `steps` gives each step's inputs, and what the module answered."""

    def __init__(self, batch, steps):
        self.batch = batch
        self.steps = torch.no_grad()(steps)


def names_rnn(module):
    hidden = torch.zeros(2, 8)
    for t in range(5):
        x = torch.randn(2, 6, generator=torch.Generator().manual_seed(t))
        output, hidden = module(x, hidden)
        yield {"input": x}, [output]


def policy(module):
    hx = cx = torch.zeros(3, 10)
    for t in range(5):
        x = torch.randn(3, 4, generator=torch.Generator().manual_seed(t))
        pi, hx, cx = module(x, hx, cx)
        yield {"x": x}, [pi]


def impala(module):
    core = tuple(torch.zeros(2, 3, 6) for _ in range(2))
    for t in range(5):
        frames = torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(t))
        notdone = torch.tensor([1.0, float(t % 2), 1.0]).view(1, 3, 1)
        answers, core = module(frames, notdone, core)
        yield {"frames": frames[0], "notdone": notdone[0]}, [answer[0] for answer in answers.values()]


def matrices(module):
    xs = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0))
    for t in range(5):
        whole = module(xs[: t + 1])
        yield {"inputs": xs[t]}, [(whole[0] if isinstance(whole, tuple) else whole)[-1]]


def kept(module):
    for t in range(5):
        obs = torch.randn(2, 1, 3, generator=torch.Generator().manual_seed(t))
        yield {"obs": obs[:, 0]}, [module(obs)[:, 0]]


OWNERS = {
    "names_rnn": Owner(2, names_rnn),
    "policy_hx_cx": Owner(3, policy),
    "impala_masked_loop": Owner(3, impala),
    "lstm_matrices": Owner(2, matrices),
    "kept_hidden_none": Owner(2, kept),
}
