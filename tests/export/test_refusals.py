"""What cannot be exported is refused with the rule, the value and the remedy."""

import pytest
import torch
from tests.export.modules import Hidden, example
from torch import nn

import rnnx
from rnnx_runtime.artifact import CharCodec


def refused(module, arguments, match, tmp_path, **options):
    with pytest.raises(rnnx.ExportError, match=match):
        rnnx.export(module, arguments, tmp_path / "model.onnx", **options)
    assert list(tmp_path.iterdir()) == []


class Noisy(Hidden):
    def forward(self, x):
        return super().forward(x) + torch.randn(1)


class Mixed(Hidden):
    def __init__(self, kind):
        super().__init__(kind)
        self.head.double()

    def forward(self, x):
        return self.head(super().forward(x).double())


class FixedTime(Hidden):
    def forward(self, x):
        return super().forward(x.view(4, 2, 3))


@pytest.mark.parametrize(
    ("module", "match"),
    [
        (Noisy("gru"), "not a function of its inputs: two runs on the same example differ in output"),
        (FixedTime("gru"), r"no axes of x \(4, 2, 3\) can be batch and time"),
        (Hidden("lstm").half(), "float16; an artifact computes in float32 or float64"),
        (Mixed("lstm"), "Mixed has weights in float32 and in float64"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_modules(module, match, tmp_path):
    refused(module, example(module), match, tmp_path)


def test_a_module_without_a_recurrent_layer(tmp_path):
    refused(nn.Linear(3, 5), torch.randn(2, 3), "Linear has no nn.RNN, nn.LSTM or nn.GRU", tmp_path)


def test_what_is_no_module(tmp_path):
    refused(torch.relu, torch.randn(2, 3), "expected a torch.nn.Module, got builtin_function", tmp_path)


def test_an_example_that_does_not_fit(tmp_path):
    module = Hidden("gru")
    refused(module, (), "does not fit forward of Hidden: missing a required argument: 'x'", tmp_path)
    refused(module, torch.randn(2, 4, 9), "does not run on the example: RuntimeError", tmp_path)
    refused(module, [1, 2], "the example is a tensor, a tuple", tmp_path)
    refused(module, torch.randn(4, 3), "Hidden does not run on the example: RuntimeError: For unbatched 2-D input", tmp_path)
    refused(
        nn.GRU(3, 5), torch.randn(4, 3), r"the module: a recurrent layer must be given a batch .* shape \(4, 3\)", tmp_path
    )
    refused(module, torch.randn(4, 2, 3).to_sparse(), "plain dense tensor", tmp_path)


def test_weights_that_are_not_finite(tmp_path):
    module = Hidden("gru")
    module.head.bias.data[0] = float("nan")
    refused(module, example(module), "head.bias holds NaN or infinity", tmp_path)


def test_a_codec_larger_than_the_embedding(tmp_path):
    from tests.export.modules import CharRnn

    codec = CharCodec(vocabulary="abcde")
    refused(
        CharRnn(), torch.tensor([[1, 2]]), "the codec has 5 symbols, but tokens is looked up among 4", tmp_path, codec=codec
    )


def test_an_output_path_that_is_a_folder_or_has_another_ending(tmp_path):
    module = Hidden("gru")
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(IsADirectoryError, match="is a folder; give the path of a file"):
        rnnx.export(module, example(module), tmp_path / "folder.onnx")
    with pytest.raises(rnnx.ExportError, match=r"must end in .onnx, got 'model.bin'"):
        rnnx.export(module, example(module), tmp_path / "model.bin")
