"""F12: what importing and running leaves behind: threads, files, sockets, processes, settings. ONNX Runtime by itself leaves all."""

import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Final

from tests.faults.harness import Fault, Limits, Tally, WrongAnswerError, attempt

HERE: Final = Path(__file__).parent
GOLDEN: Final = HERE.parent / "golden"
ROOT: Final = HERE.parent.parent
LIMITS: Final = Limits(seconds=60, memory=None)
SWITCH: Final = "ORT_DISABLE_TELEMETRY"
FOLDERS: Final = ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "TMPDIR")

# What Python itself is asked to do is seen by an audit hook, what ONNX Runtime does without it, in /proc.
BEFORE: Final = """
import json, os, sys, threading
import argparse, numpy, msgspec, runpy, secrets
SEEN = []
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
WATCHED = ("socket.", "subprocess.", "os.fork", "os.posix_spawn", "os.exec", "os.system", "os.mkdir", "os.rename", "os.remove",
           "os.link", "os.symlink", "os.chmod", "os.truncate", "os.utime", "os.putenv", "os.unsetenv", "shutil.", "tempfile.",
           "sqlite3.", "urllib.", "http.", "ftplib.", "smtplib.", "signal.", "sys.addaudithook", "sys.setprofile", "sys.settrace")
def hook(event, args):
    if event == "open" and isinstance(args[2], int) and args[2] & WRITING or event.startswith(WATCHED):
        SEEN.append(f"{event} {args!r}"[:200])
def stands():
    fields = dict(line.split(": ") for line in open("/proc/self/io").read().splitlines())
    links = []
    for number in os.listdir("/proc/self/fd"):
        try: links.append(os.readlink(f"/proc/self/fd/{number}"))
        except OSError: pass
    return {"threads": len(os.listdir("/proc/self/task")), "python threads": threading.active_count(),
            "writes": fields["syscw"], "sockets": sum(link.startswith("socket:") for link in links), "folder": os.getcwd(),
            "environment": dict(os.environ)}
stands()
before = stands()
sys.addaudithook(hook)
SEEN.clear()
"""
AFTER: Final = """
after = stands()
put = [event for event in SEEN if not (event.startswith("os.putenv") and "ORT_DISABLE_TELEMETRY" in event)]
for name in ("before", "after"):
    globals()[name]["environment"].pop("ORT_DISABLE_TELEMETRY", None)
print(json.dumps([before, after, put, os.environ.get("ORT_DISABLE_TELEMETRY")]))
"""
PROGRAMS: Final = {
    "import": "import rnnx_runtime, rnnx_runtime.artifact",
    "load": "from rnnx_runtime import load; load(sys.argv[1])",
    "step": "from rnnx_runtime import load; load(sys.argv[1]).stream().step([0])",
    "write": "from rnnx_runtime import load; list(load(sys.argv[1]).stream().generate('hell', 9, seed=1))",
    "pool": "from rnnx_runtime import load; load(sys.argv[1]).pool().step({1: 0, 2: 1})",
    "snapshot": "from rnnx_runtime import State, load; State.from_bytes(load(sys.argv[1]).initial_state().to_bytes())",
    "self-test": "import rnnx_runtime; rnnx_runtime.selftest(sys.argv[1])",
}
COMMANDS: Final = {"the command": ["--text", "hello"], "the command's self-test": ["--selftest"]}
AS_COMMAND: Final = """
import io
said, sys.stdout = sys.stdout, io.StringIO()
sys.argv = ["rnnx_runtime", sys.argv[1], *sys.argv[2:]]
try: runpy.run_module("rnnx_runtime", run_name="__main__")
except SystemExit as end: assert not end.code, end.code
sys.stdout = said
"""

Change = Callable[[Path, dict[str, str]], object]
HOMES: Final[dict[str, Change]] = {
    "empty folders": lambda folder, env: env.update({name: str(folder / name) for name in FOLDERS}),
    "unset": lambda folder, env: [env.pop(name, None) for name in FOLDERS],
    "empty": lambda folder, env: env.update(dict.fromkeys(FOLDERS, "")),
    "missing": lambda folder, env: env.update(dict.fromkeys(FOLDERS, "/nonexistent/folder")),
    "not to be written": lambda folder, env: env.update(dict.fromkeys(FOLDERS, "/proc")),  # not even by root
    "a file": lambda folder, env: env.update(dict.fromkeys(FOLDERS, "/dev/null")),
}


def run(count: int, seed: int) -> Tally:
    tally = Tally()
    cases = list(product(HOMES, [*PROGRAMS, *COMMANDS]))
    random.Random(seed).shuffle(cases)
    for home, program in cases[:count]:
        tally.add(f"{program}, HOME {home}", attempt(partial(_traces, home, program), LIMITS), ["correct"])
    return tally


def _traces(home: str, program: str) -> None:
    with _folder() as folder:
        environment = {key: value for key, value in os.environ.items() if key not in (SWITCH, *FOLDERS)}
        HOMES[home](folder, environment)
        places = [folder, *_caches()]
        body, arguments = (PROGRAMS[program], []) if program in PROGRAMS else (AS_COMMAND, COMMANDS[program])
        files = _files(places)
        # -B: the bytecode that Python keeps is its own matter.
        command = [sys.executable, "-B", "-c", f"{BEFORE}\n{body}\n{AFTER}", str(GOLDEN / "char_rnn.onnx"), *arguments]
        done = subprocess.run(
            command, cwd=folder, env=environment | {"PYTHONPATH": ""}, capture_output=True, text=True, check=False
        )
        _check(done, _files(places) - files)


def _check(done: subprocess.CompletedProcess[str], left: set[Any]) -> None:
    if done.returncode or done.stderr:
        raise WrongAnswerError(f"ends with {done.returncode}: {done.stderr[-300:]}")
    before, after, events, switch = json.loads(done.stdout)
    set_anew = dict(before.pop("environment").items() ^ after.pop("environment").items())
    if set_anew:
        raise WrongAnswerError(f"sets {', '.join(sorted(set_anew))} in the environment")
    if before != after:
        raise WrongAnswerError(
            "; ".join(f"{key}: {before[key]} -> {after[key]}" for key in before if before[key] != after[key])
        )
    if events:
        raise WrongAnswerError(f"does {events[:3]}")
    if left:
        raise WrongAnswerError(f"leaves {sorted(left)[:3]}")
    if switch != "1":
        raise WrongAnswerError(f"{SWITCH} is {switch}")


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
        for folder in FOLDERS:
            (Path(name) / folder).mkdir()
        yield Path(name)


def _caches() -> list[Path]:
    """Where files would be left of a user without HOME: only what is in there by the name of ONNX Runtime."""
    import pwd

    home = Path(pwd.getpwuid(os.getuid()).pw_dir)
    return [home / ".cache" / "onnxruntime", home / ".cache" / "Microsoft", home / ".config" / "onnxruntime"]


def _files(places: list[Path]) -> set[tuple[str, int]]:
    return {(str(path), path.lstat().st_mtime_ns) for place in places for path in place.rglob("*") if path.is_file()}


FAULT: Final = Fault(
    "F12",
    "traces",
    "Importing, loading and running starts no thread and no process, opens no socket, writes not one byte, and sets nothing but "
    f"{SWITCH}, whatever HOME is.",
    full=len(HOMES) * (len(PROGRAMS) + len(COMMANDS)),
    reduced=18,
    run=run,
)
