"""The command that makes an artifact with fewer bits of another. It never imports torch."""

from pathlib import Path

import click

from rnnx._cli.run import trusted


@click.command()
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option("--bits", type=int, help="Of a weight: 8 or 4.  [default: 8]")
@click.option("--block", type=int, help="How many weights share a scale: a power of two from 16 on.  [default: 32]")
@click.option("--fp16", is_flag=True, help="Float16 instead, for execution providers that have it; slower on the CPU.")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="What the loss is measured on: a text for a model that reads text, else .npy, .csv, or .npz with inputs and targets by "
    "name. Default: what the artifact writes itself, or random inputs.",
)
@click.option("--allow-loss", is_flag=True, help="Write it even where the loss rises by more than 1 % (4 bits: 5 %).")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="The new artifact. Default: ARTIFACT.int8.onnx or the like."
)
@trusted
@click.option("--json", "as_json", is_flag=True, help="Everything, for machines.")
def quantize(
    artifact: Path,
    bits: int | None,
    block: int | None,
    fp16: bool,
    data: Path | None,
    allow_loss: bool,
    output: Path | None,
    trust: bool,
    as_json: bool,
) -> None:
    """Store the weights of an artifact in fewer bits: smaller, and from about 256 hidden units on faster.

    Both artifacts are run on the same data before anything is written. Needs no torch.

    \b
    rnnx quantize artifacts/model.onnx --data held_out.txt
    rnnx quantize artifacts/model.onnx --bits 4 --block 16 -o artifacts/small.onnx
    rnnx quantize artifacts/model.onnx --fp16
    """
    from rnnx._quantize.quantisation import quantize as quantize_artifact

    done = quantize_artifact(
        artifact, output, bits=bits, block=block, fp16=fp16, data=data, allow_loss=allow_loss, trust=trust
    )
    click.echo(done.to_json() if as_json else str(done))
    if done.replaced is not None:
        click.echo(f"{done.path} held {done.replaced} before; it is replaced", err=True)
