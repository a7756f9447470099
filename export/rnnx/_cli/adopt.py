"""`rnnx adopt`: somebody else's ONNX file to an artifact. Imports nothing heavy before the command runs."""

import ast
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click

from rnnx._errors import AdoptError
from rnnx_runtime.artifact import CharCodec

_ARTIFACT: Final = Path("artifacts/adopted.onnx")
_NONE: Final = "none"
_LARGE: Final = 64 << 20  # bytes of a file, of which each run takes long
_SHOWN: Final = 60  # characters of what was typed, in a message
_LONGEST: Final = 1 << 20  # characters of a vocabulary


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--state",
    "states",
    multiple=True,
    metavar="INPUT=OUTPUT",
    help="Which output hands a state back: state=stateN, h0=hn,c0=cn; none where there is none. Default: found by names, shapes and what "
    "flows where.",
)
@click.option(
    "--set",
    "constants",
    multiple=True,
    metavar="INPUT=VALUE",
    help="An input that is the same for all steps, made a constant: sr=16000",
)
@click.option(
    "--axes",
    multiple=True,
    metavar="INPUT=LETTERS",
    help="A letter or a size per axis, B for batch, T for time: x=BTF, x=B512, x=B,1,80",
)
@click.option(
    "--lift", is_flag=True, help="Make inputs and outputs of states that RNN, LSTM and GRU nodes begin anew in each call."
)
@click.option(
    "--trust",
    is_flag=True,
    help="Allow operators outside the runtime's list. The artifact says so, and whoever loads it must allow them again.",
)
@click.option("--name", help="Of the model. Default: the file's.")
@click.option(
    "--vocabulary", metavar="FILE|TEXT", help="For a model of tokens: its characters in order, in a file or as they are."
)
@click.option("-o", "--output", default=_ARTIFACT, show_default=True, type=click.Path(path_type=Path), help="The artifact.")
@click.option("--json", "as_json", is_flag=True, help="All that was found, for machines.")
def adopt(
    file: Path,
    states: Sequence[str],
    constants: Sequence[str],
    axes: Sequence[str],
    lift: bool,
    trust: bool,
    name: str | None,
    vocabulary: str | None,
    output: Path,
    as_json: bool,
) -> None:
    """Make an artifact of an ONNX file that somebody else made, so that it runs as a stream.

    The artifact is compared with the file before anything is written. Needs no torch.

    \b
    rnnx adopt enhancer.onnx --state cache=cache_out
    rnnx adopt detector.onnx --state state=stateN --set sr=16000 --axes input=B576
    rnnx adopt tagger.onnx --lift -o artifacts/tagger.onnx
    """
    pairs = _pairs(states)
    said = dict(_split("--axes", axes, "x=BTF"))
    values = {key: _value(key, value) for key, value in _split("--set", constants, "sr=16000")}
    codec = None if vocabulary is None else _codec(vocabulary)

    from rnnx._adopt.adoption import adopt as adopt_file

    if _is_file(file) and (size := file.stat().st_size) > _LARGE:
        click.echo(f"{file} has {size >> 20} MiB; it is run a hundred times, which takes a while", err=True)
    done = adopt_file(file, output, states=pairs, set=values, axes=said, lift=lift, trust=trust, name=name, codec=codec)
    click.echo(done.to_json() if as_json else str(done))
    if done.replaced is not None:
        click.echo(f"{done.path} held {done.replaced} before; it is replaced", err=True)


def _pairs(given: Sequence[str]) -> dict[str, str] | None:
    """States by input; None where nothing was said."""
    if not given:
        return None
    parts = [part for text in given for part in text.split(",")]
    return {} if parts == [_NONE] else dict(_split("--state", parts, "state=stateN"))


def _split(option: str, given: Sequence[str], example: str) -> list[tuple[str, str]]:
    """`name=value`, each name once."""
    found: dict[str, str] = {}
    for text in given:
        key, separator, value = (part.strip() for part in text.partition("="))
        if not (key and separator and value):
            raise AdoptError(f"{option} needs a name and a value, such as {option} {example}; got {text!r}")
        if key in found:
            raise AdoptError(f"{option} {key} is given twice, as {found[key]} and as {value}; give it once")
        found[key] = value
    return list(found.items())


def _value(name: str, text: str) -> Any:
    try:
        with warnings.catch_warnings(action="ignore"):
            return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
        raise AdoptError(f"--set {name} needs a number, or a list of numbers; got {shown!r}") from None


def _codec(given: str) -> CharCodec:
    """The characters of a file, without the end of its last line, where there is one; else those given."""
    path = Path(given)
    try:
        text = path.read_text(encoding="utf-8").removesuffix("\n") if _is_file(path) else given
    except UnicodeDecodeError:
        raise AdoptError(f"{given} is not a text in UTF-8; a vocabulary is its characters in order") from None
    try:
        return CharCodec(vocabulary=text[:_LONGEST])
    except ValueError as error:
        raise AdoptError(f"--vocabulary: {error}; give each character once, in the order of their tokens") from None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a text that no path can be
        return False
