"""The commands that run an artifact: infer, generate. They never import torch."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import click

from rnnx._values import read_image, read_values, write_values
from rnnx_runtime import InputError, Model, load

Unknown = Literal["error", "skip", "replace"]

_unknown = click.option(
    "--unknown",
    type=click.Choice(["error", "skip", "replace"]),
    default="error",
    show_default=True,
    help="What to do with a character that the model never saw.",
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
def infer(
    artifact: Path, text: str | None, values: str | None, image: Path | None, output: Path | None, unknown: Unknown
) -> None:
    """Answer a text, values or an image with an artifact.

    \b
    rnnx infer artifacts/model.onnx --text hello
    rnnx infer artifacts/sin_lstm.onnx --input signal.csv
    rnnx infer artifacts/caption_rnn.onnx --image seven.png
    """
    if sum(given is not None for given in (text, values, image)) != 1:
        raise InputError("give exactly one of --text, --input and --image")
    model = load(artifact)
    if values is not None:
        write_values(model.manifest.outputs, model.infer(read_values(model.manifest.inputs, values)), output)
        return
    answer = model.infer(_known(model, text, unknown)) if text is not None else _describe_image(model, image)
    if output is None:
        click.echo(answer)
    else:
        output.write_text(answer + "\n", encoding="utf-8")


@click.command()
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option("--prompt", help="What the text begins with. Default: what the artifact says, else the first symbol.")
@click.option("--length", default=200, show_default=True, type=click.IntRange(min=0), help="In symbols.")
@click.option("--temperature", default=1.0, show_default=True, help="0 takes the most likely symbol each time.")
@click.option("--top-k", type=int, help="Draw from the k most likely symbols only.")
@click.option("--top-p", type=float, help="Draw from the most likely symbols that together reach this probability.")
@click.option("--seed", type=int, help="The same seed gives the same text.")
@click.option("--stop", multiple=True, help="End before this text; may be given more than once.")
@_unknown
def generate(
    artifact: Path,
    prompt: str | None,
    length: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    seed: int | None,
    stop: tuple[str, ...],
    unknown: Unknown,
) -> None:
    """Write text of the model's own, as it comes.

    \b
    rnnx generate artifacts/char.onnx --prompt "The " --length 400 --temperature 0.8 --seed 1
    """
    model = load(artifact)
    begin = _known(model, prompt, unknown) if prompt is not None else _first_words(model)
    pieces = model.stream().generate(begin, length, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed, stop=stop)
    write = _writer()
    write(begin)
    for piece in pieces:
        write(piece)
    write("\n")


def _known(model: Model, text: str, unknown: Unknown) -> str:
    """The text without what the model never saw, or with something else in its place."""
    codec = model.manifest.codec
    return text if codec is None or unknown == "error" else codec.clean(text, unknown)


def _first_words(model: Model) -> str:
    if model.manifest.sampling is not None:
        return model.manifest.sampling.prompt
    if model.manifest.codec is None:
        raise InputError("this artifact has no text codec; it takes and gives numbers")
    return model.manifest.codec.vocabulary[0]


def _describe_image(model: Model, image: Path | None) -> str:
    sampling, conditions = model.manifest.sampling, model.manifest.conditions
    if sampling is None or len(conditions) != 1 or image is None:
        raise InputError("this artifact does not answer to an image; give --text or --input")
    condition: dict[str, Any] = {conditions[0].name: read_image(conditions[0], image)}
    stream = model.stream(**condition)
    return "".join(stream.generate(sampling.prompt, sampling.max_new_tokens, temperature=0, stop=sampling.stop))


def _writer() -> Callable[[str], Any]:
    """Writes at once, and in UTF-8 whatever the terminal's encoding is."""
    stream = sys.stdout

    def write(piece: str) -> None:
        stream.write(piece)
        stream.flush()

    return write
