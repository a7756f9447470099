import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = "torch onnx onnxscript click rich safetensors rnnx rnnx_models google.protobuf"


def run_alone(program, *arguments, **environment):
    """What a fresh interpreter prints."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("ORT_")}
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=clean | environment,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


def test_the_version_costs_nothing_until_it_is_asked_for():
    program = "import sys, rnnx_runtime as r; print('importlib.metadata' in sys.modules, r.__version__)"
    late, version = run_alone("import sys, numpy, msgspec; known = set(sys.modules)\n" + program)
    assert late == "False"
    assert version.count(".") == 2


LOADED = f"\nimport sys; print(*(name for name in '{HEAVY} onnxruntime'.split() if name in sys.modules))"


@pytest.mark.parametrize("module", ["rnnx_runtime", "rnnx_runtime.artifact", "rnnx_runtime.__main__"])
def test_importing_loads_nothing_heavy_and_not_even_onnxruntime(module):
    assert run_alone(f"import {module}" + LOADED) == []


def test_loading_a_model_loads_onnxruntime_and_nothing_else(golden):
    program = "import sys, rnnx_runtime; rnnx_runtime.load(sys.argv[1]).infer('hello')" + LOADED
    assert run_alone(program, golden / "char_rnn.onnx") == ["onnxruntime"]


def test_opening_an_artifact_without_running_it_needs_no_onnxruntime(golden):
    program = "import sys, rnnx_runtime.artifact as a; a.open_artifact(sys.argv[1])" + LOADED
    assert run_alone(program, golden / "char_rnn.onnx") == []


TELEMETRY = """
import os, sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "onnxruntime":
            print(os.environ.get("ORT_DISABLE_TELEMETRY"))
sys.meta_path.insert(0, Watch())
import rnnx_runtime
rnnx_runtime.load(sys.argv[1])
"""


def test_telemetry_is_off_before_onnxruntime_is_imported(golden):
    assert run_alone(TELEMETRY, golden / "char_rnn.onnx") == ["1"]


def test_a_setting_of_the_user_is_left_alone(golden):
    assert run_alone(TELEMETRY, golden / "char_rnn.onnx", ORT_DISABLE_TELEMETRY="true") == ["true"]


WARNED = """
import sys, warnings
import onnxruntime
import rnnx_runtime
for _ in range(2):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        rnnx_runtime.load(sys.argv[1])
    print(len(caught), *(f"{w.category.__name__}:{w.filename}:{w.message}".replace(" ", "_") for w in caught))
"""


def test_who_imported_onnxruntime_before_is_told_once_that_its_telemetry_may_be_on(golden):
    first, told, second = run_alone(WARNED, golden / "char_rnn.onnx")
    assert (first, second) == ("1", "0")
    assert told == (
        "RuntimeWarning:<string>:onnxruntime_was_imported_before_rnnx_runtime,_so_its_telemetry_may_be_on;"
        "_set_ORT_DISABLE_TELEMETRY=1,_or_import_rnnx_runtime_first"
    )


def test_nobody_is_warned_where_the_switch_was_set(golden):
    assert run_alone(WARNED, golden / "char_rnn.onnx", ORT_DISABLE_TELEMETRY="1") == ["0", "0"]
    assert run_alone(WARNED.replace("import onnxruntime", ""), golden / "char_rnn.onnx") == ["0", "0"]


THREADS = """
import os, sys, threading, numpy, msgspec
def threads(): return len(os.listdir("/proc/self/task"))
before = threads()
import rnnx_runtime, rnnx_runtime.artifact
print(threads() - before, threading.active_count())
model = rnnx_runtime.load(sys.argv[1])
model.stream().step([0])
model.infer("hello")
print(threads() - before, threading.active_count())
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted in /proc")
def test_neither_importing_nor_running_starts_a_thread(golden):
    assert run_alone(THREADS, golden / "char_rnn.onnx") == ["0", "1", "0", "1"]


ENVIRONMENT = """
import os, signal, locale, warnings, logging
import numpy, msgspec
def settings():
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    errors = sorted(numpy.geterr().items())
    return dict(os.environ), os.getcwd(), handlers, errors, list(warnings.filters), logging.root.level, locale.setlocale(0)
before = settings()
import rnnx_runtime
after = settings()
print(*(set(after[0].items()) ^ set(before[0].items())), before[1:] == after[1:])
"""


def test_importing_sets_nothing_but_the_switch_of_the_telemetry():
    found = run_alone(ENVIRONMENT)
    assert found[-1] == "True"
    assert found[:-1] in ([], ["('ORT_DISABLE_TELEMETRY',", "'1')"])


def test_running_a_model_writes_nothing_into_the_users_folders(golden, tmp_path):
    program = "import sys, rnnx_runtime; rnnx_runtime.load(sys.argv[1]).infer('hello')"
    folders = {name: str(tmp_path / name) for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "TMPDIR")}
    for folder in folders.values():
        Path(folder).mkdir()
    run_alone(program, golden / "char_rnn.onnx", **folders)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
