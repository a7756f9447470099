"""The command that measures an artifact on this machine. It imports torch only where a peer is torch."""

from pathlib import Path
from typing import Any

import click

from rnnx._cli.module import Asked, Chosen, module_options, own_module
from rnnx._cli.progress import bench_progress
from rnnx._cli.run import provider, trusted
from rnnx._cli.train import checkpoint_path


@click.command()
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option(
    "--against",
    default="",
    metavar="PEER,...",
    help="Other ways to run the same model: eager (give --model or --module), torchscript, session.run, binding (the floor "
    "of ONNX Runtime), openvino.",
)
@click.option("--streams", default=256, show_default=True, metavar="N", help="At once, at most.")
@click.option(
    "--seconds", default=10.0, show_default=True, metavar="S", help="What the timing may take; loading comes on top."
)
@click.option("--threads", default=1, show_default=True, metavar="N", help="Inside one call.")
@module_options
@click.option(
    "--torchscript",
    type=click.Path(path_type=Path),
    help="For torchscript: the .pt, where it is not beside it. Its code is run.",
)
@provider
@trusted
@click.option("--plot", type=click.Path(path_type=Path), metavar="FILE", help="A picture: .png or .svg.")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def bench(
    artifact: Path,
    against: str,
    streams: int,
    seconds: float,
    threads: int,
    torchscript: Path | None,
    providers: tuple[str, ...],
    trust: bool,
    plot: Path | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Measure how fast an artifact is on this machine, and what to do about it.

    One step, a chunk, generation, many streams, threads; beside the peers that are asked for and the other execution providers
    of this machine. Takes about ten seconds, and needs a machine that does nothing else. docs/bench.md explains the figures.

    \b
    rnnx bench artifacts/model.onnx
    rnnx bench artifacts/model.onnx --against session.run,binding,torchscript --plot bench.png
    rnnx bench artifacts/model.onnx --against eager --model emb_rnn
    """
    from rnnx import bench as measure
    from rnnx._bench.peers import parse_peers

    asked = Asked(**given)
    asked.check()
    peers = parse_peers(against)
    if asked.checkpoint is not None and asked.name is None and asked.module is None:
        raise click.UsageError("--checkpoint needs --model NAME or --module FILE.py:FACTORY")
    if (asked.name is not None or asked.module is not None) and "eager" not in peers:
        raise click.UsageError("--model and --module are for --against eager")
    if torchscript is not None and "torchscript" not in peers:
        raise click.UsageError("--torchscript is for --against torchscript")
    if plot is not None:
        from rnnx._bench.picture import check_picture

        check_picture(plot)
    chosen = _chosen(asked)
    with bench_progress() as progress:
        found = measure(
            artifact,
            against=peers,
            streams=streams,
            seconds=seconds,
            providers=providers or "cpu",
            threads=threads,
            module=None if chosen is None else chosen.module,
            example=None if chosen is None else chosen.example,
            states=None if chosen is None else chosen.states,
            axes=None if chosen is None else chosen.axes,
            torchscript=torchscript,
            trust=trust,
            progress=progress,
        )
    click.echo(found.to_json() if as_json else str(found))  # first: it is not lost where the picture cannot be written
    if plot is not None:
        from rnnx._bench.picture import write_picture

        write_picture(plot, found)


def _chosen(asked: Asked) -> Chosen | None:
    if asked.module is not None:
        return own_module(asked)
    if asked.name is None:
        return None
    from rnnx_models import get_recipe
    from rnnx_models.checkpoint import load_checkpoint

    get_recipe(asked.name)  # a misspelt name is told first
    recipe, module = load_checkpoint(asked.checkpoint or checkpoint_path(asked.name), asked.name)
    return Chosen(module, recipe.example())
