from pathlib import Path

import pytest
from tests.runtime import handmade

from rnnx_runtime import Model, load

GOLDEN = Path(__file__).parent.parent / "golden"
NAMES = ("char_rnn", "lstm", "gru")


@pytest.fixture(scope="session")
def golden() -> Path:
    return GOLDEN


@pytest.fixture(scope="session")
def models() -> dict[str, Model]:
    return {name: load(GOLDEN / f"{name}.onnx") for name in NAMES} | {"running_sum": load(handmade.running_sum())}


@pytest.fixture
def char_rnn(models: dict[str, Model]) -> Model:
    return models["char_rnn"]


@pytest.fixture
def lstm(models: dict[str, Model]) -> Model:
    return models["lstm"]


@pytest.fixture
def gru(models: dict[str, Model]) -> Model:
    return models["gru"]


@pytest.fixture
def running_sum(models: dict[str, Model]) -> Model:
    return models["running_sum"]


@pytest.fixture(params=[*NAMES, "running_sum"])
def model(models: dict[str, Model], request: pytest.FixtureRequest) -> Model:
    return models[request.param]


@pytest.fixture
def no_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on a call that reaches ONNX Runtime fails the test."""

    def reached(*arguments: object) -> None:
        raise AssertionError("ONNX Runtime was called")

    monkeypatch.setattr("rnnx_runtime._session.Session.run", reached)
    monkeypatch.setattr("rnnx_runtime._session.Session.bind", lambda *arguments: reached)
