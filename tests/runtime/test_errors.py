import pickle

import pytest

import rnnx_runtime
from rnnx_runtime import (
    ArtifactError,
    ArtifactNotFoundError,
    BusyError,
    ExecutionError,
    InputError,
    ProviderError,
    RnnxError,
    StateError,
    load,
)

FITTING = {
    ArtifactError: ValueError,
    ArtifactNotFoundError: FileNotFoundError,
    InputError: ValueError,
    StateError: ValueError,
    ProviderError: RuntimeError,
    BusyError: TimeoutError,
    ExecutionError: RuntimeError,
}


@pytest.mark.parametrize(("error", "builtin"), FITTING.items())
def test_every_error_is_one_of_ours_and_the_fitting_builtin(error, builtin):
    assert issubclass(error, RnnxError)
    assert issubclass(error, builtin)
    assert not issubclass(RnnxError, (ValueError, OSError, RuntimeError))


def test_a_missing_artifact_is_an_artifact_error_too():
    assert issubclass(ArtifactNotFoundError, ArtifactError)


def test_all_errors_are_known_here():
    errors = {value for value in vars(rnnx_runtime).values() if isinstance(value, type) and issubclass(value, Exception)}
    assert errors == {RnnxError, *FITTING}


@pytest.mark.parametrize("error", [RnnxError, *FITTING])
def test_an_error_keeps_its_text_between_processes(error):
    copied = pickle.loads(pickle.dumps(error("the rule; the remedy")))
    assert type(copied) is error
    assert str(copied) == "the rule; the remedy"


def test_one_except_catches_all(lstm, tmp_path):
    asks = [
        lambda: load(tmp_path / "missing.onnx"),
        lambda: load(b"no artifact"),
        lambda: lstm.run([[[1, 2]]]),
        lambda: lstm.run([[["a", "b", "c"]]]),
        lambda: lstm.run([[1.0], [1.0, 2.0]]),
        lambda: lstm.infer("text"),
        lambda: lstm.make_state({}),
        lambda: lstm.stream(0),
        lambda: lstm.stream().restore(None),
    ]
    for ask in asks:
        with pytest.raises(RnnxError) as caught:
            ask()
        assert "\n" not in str(caught.value)
        assert str(caught.value).strip()
        assert caught.value.__cause__ is None or isinstance(caught.value, ExecutionError)
