"""The commands that run an artifact: infer, generate. They never import torch."""

import io
import sys
from pathlib import Path
from typing import Any, Final, Literal

import click

from rnnx._cli.values import check_output, read_image, read_values, write_values
from rnnx_runtime import InputError, Model, load
from rnnx_runtime.artifact import Sampling, ScalerCodec, write_atomic

_LENGTH: Final = 200  # symbols, where neither the person nor the artifact says

Unknown = Literal["error", "skip", "replace"] | None

_unknown = click.option(
    "--unknown",
    type=click.Choice(["error", "skip", "replace"]),
    help="A character that the model never saw: refuse it, leave it out, or put another one there. "
    "Default: what the artifact says, which is to refuse it where nobody said otherwise.",
)

provider = click.option(
    "--provider",
    "providers",
    multiple=True,
    help="The execution provider to run on, in order of preference where given more than once. Default: cpu. "
    "auto takes the fastest; `rnnx providers` lists them.",
)

trusted = click.option(
    "--trust",
    is_flag=True,
    help="Run operators outside the runtime's list, which whoever adopted the file trusted: they may use more time and "
    "memory than can be foreseen. Only if you trust where the file comes from.",
)


@click.command()
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option("--text", help="For a model that reads text.")
@click.option(
    "--input", "values", metavar="FILE", help="Values: .npy or .csv, a row per step; - reads CSV from standard input."
)
@click.option("--image", type=click.Path(path_type=Path), help="For a model whose initial state is computed from an image.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write the answer here: .txt, .csv, .npy or .npz.")
@_unknown
@provider
@trusted
def infer(
    artifact: Path,
    text: str | None,
    values: str | None,
    image: Path | None,
    output: Path | None,
    unknown: Unknown,
    providers: tuple[str, ...],
    trust: bool,
) -> None:
    """Answer a text, values or an image with an artifact.

    \b
    rnnx infer artifacts/model.onnx --text hello
    rnnx infer artifacts/sin_lstm.onnx --input signal.csv
    rnnx infer artifacts/caption_rnn.onnx --image seven.png
    """
    if sum(given is not None for given in (text, values, image)) != 1:
        raise InputError("give exactly one of --text, --input and --image")
    model = load(artifact, providers=providers or "cpu", trust=trust)
    check_output(output, text=values is None, arrays=len(model.manifest.outputs))
    if values is not None:
        write_values(model.manifest, model.infer(read_values(model.manifest.inputs, values)), output)
        return
    if text is not None:
        _refuse_conditions(model)
        answer = model.infer(_known(model, text, unknown))
    else:
        answer = _describe_image(model, image)
    if output is None:
        _speak_utf8()
        click.echo(answer)
    else:
        write_atomic(output, f"{answer}\n".encode())


@click.command()
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option("--prompt", help="What the text begins with. Default: what the artifact says, else the first symbol.")
@click.option(
    "--length",
    type=click.IntRange(min=0),
    help=f"In symbols. Default, here and below: what the artifact says, else {_LENGTH}.",
)
@click.option("--temperature", type=float, help="0 takes the most likely symbol each time. Else 1.0")
@click.option("--top-k", type=int, help="Draw from the k most likely symbols only.")
@click.option("--top-p", type=float, help="Draw from the most likely symbols that together reach this probability.")
@click.option("--seed", type=int, help="The same seed gives the same text.")
@click.option("--stop", multiple=True, help="End before this text; may be given more than once. Else none.")
@_unknown
@provider
@trusted
def generate(
    artifact: Path,
    prompt: str | None,
    length: int | None,
    temperature: float | None,
    top_k: int | None,
    top_p: float | None,
    seed: int | None,
    stop: tuple[str, ...],
    unknown: Unknown,
    providers: tuple[str, ...],
    trust: bool,
) -> None:
    """Write text of the model's own, as it comes.

    \b
    rnnx generate artifacts/char.onnx --prompt "The " --length 400 --temperature 0.8 --seed 1
    """
    model = load(artifact, providers=providers or "cpu", trust=trust)
    _refuse_conditions(model)
    advised = model.manifest.sampling or Sampling(prompt="", max_new_tokens=_LENGTH)
    begin = _known(model, prompt, unknown) if prompt is not None else _first_words(model)
    pieces = model.stream().generate(
        begin,
        advised.max_new_tokens if length is None else length,
        temperature=advised.temperature if temperature is None else temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        stop=stop or advised.stop,
    )
    _speak_utf8()
    _write(begin)
    for piece in pieces:
        _write(piece)
    _write("\n")


def _known(model: Model, text: str, unknown: Unknown) -> str:
    """The text without what the model never saw, or with something else in its place."""
    codec = model.manifest.codec
    return text if codec is None or isinstance(codec, ScalerCodec) or unknown is None else codec.clean(text, unknown)


def _first_words(model: Model) -> str:
    if model.manifest.sampling is not None:
        return model.manifest.sampling.prompt
    codec = model.manifest.codec
    if codec is None or isinstance(codec, ScalerCodec):
        raise InputError("this artifact does not answer in text; it takes and gives numbers")
    return codec.vocabulary[0]


def _refuse_conditions(model: Model) -> None:
    if model.manifest.conditions:
        names = ", ".join(condition.name for condition in model.manifest.conditions)
        raise InputError(f"the initial state of this model is computed from {names}; use rnnx infer --image FILE")


def _describe_image(model: Model, image: Path | None) -> str:
    sampling, conditions = model.manifest.sampling, model.manifest.conditions
    if sampling is None or len(conditions) != 1 or image is None:
        raise InputError("this artifact does not answer to an image; give --text or --input")
    condition: dict[str, Any] = {conditions[0].name: read_image(conditions[0], image)}
    stream = model.stream(**condition)
    return "".join(stream.generate(sampling.prompt, sampling.max_new_tokens, temperature=0, stop=sampling.stop))


def _speak_utf8() -> None:
    """Text is UTF-8 whatever the terminal's encoding is, which may not have the model's characters."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")


def _write(piece: str) -> None:
    sys.stdout.write(piece)
    sys.stdout.flush()
