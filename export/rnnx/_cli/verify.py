"""`rnnx verify`: the proof of an artifact again."""

from pathlib import Path
from typing import Any, Final

import click

from rnnx._cli.module import Asked, Chosen, module_options, own_module, proof_options
from rnnx._cli.run import provider, trusted
from rnnx._cli.train import checkpoint_path

_IN_PART: Final = 3


@click.command()
@click.argument("artifact", type=click.Path(path_type=Path))
@module_options
@click.option("--torchscript", type=click.Path(path_type=Path), help="The .pt beside it, to be compared too. Its code is run.")
@proof_options
@provider
@trusted
@click.option(
    "--report", type=click.Path(path_type=Path), metavar="FILE.html", help="Write a page with tables and plots here."
)
@click.option("--json", "as_json", is_flag=True, help="For machines.")
@click.pass_context
def verify(
    ctx: click.Context,
    /,
    artifact: Path,
    torchscript: Path | None,
    proof: Any,
    providers: tuple[str, ...],
    trust: bool,
    report: Path | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Prove an artifact again: later, elsewhere, with other versions or another execution provider.

    With --model or --module it is compared with the eager module. Without, its golden trace says what is right, and its chunks and
    steps are compared with its own whole sequences; that needs no torch.

    Exit code 0 where all that was asked for holds, 1 where something differs, 3 where nothing differs but the module that was asked
    for could not be had.

    \b
    rnnx verify artifacts/model.onnx --model emb_rnn
    rnnx verify net.onnx --module net.py:make_net --checkpoint net.safetensors --report parity.html
    rnnx verify artifacts/model.onnx --provider openvino
    """
    asked = Asked(**given)
    asked.check()
    chosen, gone = None, ""
    if report is not None:
        from rnnx._page import check_page, write_page

        check_page(report)
    if asked.module is not None:
        chosen = own_module(asked)
    elif asked.name is not None:
        chosen, gone = _our_model(asked.name, asked.checkpoint)
    elif asked.checkpoint is not None or torchscript is not None:
        raise click.UsageError("--checkpoint and --torchscript need --model NAME or --module FILE.py:FACTORY")

    from rnnx import verify as verify_artifact
    from rnnx._cli.progress import proof_progress

    with proof_progress() as progress:
        found = verify_artifact(
            artifact,
            None if chosen is None else chosen.module,
            None if chosen is None else chosen.example,
            states=None if chosen is None else chosen.states,
            axes=None if chosen is None else chosen.axes,
            providers=providers or "cpu",
            trust=trust,
            proof=proof,
            torchscript=None if chosen is None else torchscript,
            progress=progress,
        )
    if report is not None:
        write_page(report, found)
    click.echo(found.to_json() if as_json else str(found))
    for other in found.strangers:
        click.echo(f"{other} does not belong to it: it was written with another artifact; export the model again", err=True)
    if gone:
        click.echo(gone, err=True)
    elif chosen is None and not as_json and found.manifest.lowering != "adopted":
        click.echo("give --model NAME or --module FILE.py:FACTORY to compare it with the eager module", err=True)
    ctx.exit(1 if not found.passed else _IN_PART if gone else 0)


def _our_model(name: str, checkpoint: Path | None) -> tuple[Chosen | None, str]:
    """One of our models with its checkpoint; None, and why, where that is gone."""
    from rnnx_models import get_recipe
    from rnnx_models.checkpoint import load_checkpoint

    get_recipe(name)  # a misspelt name is told first
    path = checkpoint or checkpoint_path(name)
    if checkpoint is None and not path.exists():
        return (
            None,
            f"there is no checkpoint at {path}: verified from the golden trace only; train again, or give --checkpoint",
        )
    recipe, module = load_checkpoint(path, name)
    return Chosen(module, recipe.example()), ""
