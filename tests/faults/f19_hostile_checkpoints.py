"""F19: checkpoints that run code, lie or do not fit, given to every command that reads one.

Each is refused in one line that names it: no code in it has run, nothing was exported, and memory stays in bounds.
"""

import importlib.util
import json
import os
import random
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import click
import safetensors
import safetensors.torch
import torch
from tests.faults.checkpoints import CANARY, HEADERS, safetensors_files, saved, torch_files
from tests.faults.f01_mutated_artifacts import DAMAGES
from tests.faults.harness import Fault, Limits, Tally, WrongAnswerError, attempt
from tests.faults.writing import GOLDEN, NET

from rnnx._cli import main
from rnnx._cli.given import load_weights
from rnnx_models import get_recipe
from rnnx_models._resume import read_training
from rnnx_models.checkpoint import load_checkpoint
from rnnx_models.train import TrainingInterruptedError, train
from rnnx_runtime import RnnxError

LIMITS: Final = Limits(seconds=30, memory=2 << 30)
MOST: Final = 600 << 20  # bytes of memory that a file may lead to
OURS: Final = ["--model", "emb_rnn", "--checkpoint"]
THEIRS: Final = ["--module", "net.py:make", "--checkpoint"]


def run(count: int, seed: int) -> Tally:
    """Every hostile file to every command that reads such files, and `count` that were damaged by chance."""
    tally, chance = Tally(), random.Random(seed)
    before = Path.cwd()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(action="ignore"):
        os.chdir(folder)
        Path("net.py").write_text(NET)
        made = _made()
        with safetensors.safe_open("ours.safetensors", framework="pt") as file:
            checkpoint = file.metadata()
        for name, ending, data in _files(checkpoint):
            _hand_over(tally, chance, name, ending, data)
        for ending in (*ENDINGS, ".safetensors.resume"):
            for name, make in PLACES.items():
                path = Path(f"hostile{ending}")
                make(path)
                _hand_over(tally, chance, name, ending, None)
                path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
        for _ in range(count):
            ending, data = chance.choice(list(made.items()))
            damaged, damage = bytearray(data), chance.choice(DAMAGES)
            damage(damaged, chance)
            path = Path(f"damaged{ending}")
            path.write_bytes(damaged)
            tally.add(f"{ending}, {damage.__name__}", attempt(partial(READERS[ending], path), LIMITS))
        executed = Path(CANARY).exists()
        os.chdir(before)
    tally.require(not executed, "code out of a file was run")
    tally.require(tally.peak <= MOST, f"a file led to {tally.peak >> 20} MB of memory, more than {MOST >> 20} MB")
    return tally


def _files(checkpoint: dict[str, str]) -> Iterator[tuple[str, str, bytes]]:
    """Name, ending and content of every hostile file: of anybody's weights, of our checkpoint, and of an interrupted training."""
    net = _net()
    weights = net.state_dict()
    for name, data in torch_files(weights, net):
        yield name, ".pt", data
    for name, data in safetensors_files(weights, "fc.bias"):
        yield name, ".safetensors", data
    ours = safetensors.torch.load_file("ours.safetensors")
    for name, data in safetensors_files(ours, "fc.bias", checkpoint):
        yield f"ours, {name}", ".ours.safetensors", data
    yield "ours, of no model", ".ours.safetensors", safetensors.torch.save(ours)
    with safetensors.safe_open("ours.safetensors.resume", framework="pt") as file:
        training = file.metadata()
    resumed = safetensors.torch.load_file("ours.safetensors.resume")
    for name, data in safetensors_files(resumed, "module.fc.bias", training):
        yield f"a training, {name}", ".safetensors.resume", data
    for name, change in HEADERS.items():
        for ending, tensors, (key, text) in (
            (".ours.safetensors", ours, *checkpoint.items()),
            (".safetensors.resume", resumed, *training.items()),
        ):
            header = json.loads(text)
            changed = header | change
            if isinstance(change.get("config"), dict):
                changed["config"] = header["config"] | change["config"]
            yield f"{name}, {ending}", ending, safetensors.torch.save(tensors, {key: json.dumps(changed)})
        deep = {key: "[" * 100_000}
        yield f"{name}, nested", ending, safetensors.torch.save(resumed, deep)


ENDINGS: Final = (".pt", ".safetensors", ".ours.safetensors")


def _hand_over(tally: Tally, chance: random.Random, name: str, ending: str, data: bytes | None) -> None:
    """Give a file to a command; to one of those that read such files."""
    path = Path(f"hostile{ending}")
    if data is not None:
        path.write_bytes(data)
    if ending.endswith(".resume"):
        command = ["train", "--model", "emb_rnn", "--resume", "-o", "hostile.safetensors"]
    else:
        model = OURS if ending.startswith(".ours") else THEIRS
        start = chance.choice((["export", "-o", "out/net.onnx", "--quick"], ["verify", str(GOLDEN / "lstm.onnx")]))
        command = [*start, *model, str(path)]
    tally.add(f"{command[0]}, {name}", attempt(partial(_refused, command, path), LIMITS), ["error"])
    if data is not None:
        path.unlink(missing_ok=True)


def _refused(command: Sequence[str], path: Path) -> None:
    """A command that must end with one line about the file, before anything is written."""
    before = sorted(Path().iterdir())
    try:
        main(list(command), prog_name="rnnx", standalone_mode=False)
    except click.ClickException as error:
        said = error.format_message()
    else:
        raise WrongAnswerError("it is taken for a checkpoint")
    if sorted(Path().iterdir()) != before:
        raise WrongAnswerError(f"files were written: {sorted(Path().iterdir())}")
    if path.name not in said or not said.isprintable() or len(said) > 1500:
        raise WrongAnswerError(f"it says {said[:300]!r}")
    raise RnnxError(said)


def _net() -> torch.nn.Module:
    spec = importlib.util.spec_from_file_location("hostile_net", "net.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["hostile_net"] = importlib.util.module_from_spec(spec)  # a pickle of the module names it
    spec.loader.exec_module(module)
    net: torch.nn.Module = module.make()[0]
    return net


def _made() -> dict[str, bytes]:
    """A whole file of every kind."""
    recipe_type = get_recipe("emb_rnn")

    def stop(here: Any) -> None:
        if here.epoch == 2:
            raise KeyboardInterrupt

    with suppress(TrainingInterruptedError):
        train(recipe_type(recipe_type.config_type()), epochs=3, path="ours.safetensors", on_progress=stop)
    weights = _net().state_dict()
    return {
        ".pt": saved(weights),
        ".safetensors": safetensors.torch.save(weights),
        ".ours.safetensors": Path("ours.safetensors").read_bytes(),
        ".safetensors.resume": Path("ours.safetensors.resume").read_bytes(),
    }


READERS: Final[dict[str, Any]] = {
    ".pt": lambda path: load_weights(_net(), path),
    ".safetensors": lambda path: load_weights(_net(), path),
    ".ours.safetensors": lambda path: load_checkpoint(path, "emb_rnn"),
    ".safetensors.resume": lambda path: read_training(path, "emb_rnn"),
}
PLACES: Final[dict[str, Any]] = {
    "an empty file": lambda path: path.touch(),
    "a folder": lambda path: path.mkdir(),
    "a pipe": os.mkfifo,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a link to nothing": lambda path: path.symlink_to("nothing"),
    "a link to itself": lambda path: path.symlink_to(path.name),
}
FAULT: Final = Fault(
    "F19",
    "hostile checkpoints",
    "Each is refused in one line that names it: nothing in it is run, nothing is exported; at most 600 MB of memory.",
    full=4000,
    reduced=100,
    run=run,
)
