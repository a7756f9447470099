"""`rnnx export`: one of our models, or anybody's module, to an artifact."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from rnnx._cli.module import Asked, module_options, own_module, proof_options
from rnnx._cli.train import Options, checkpoint_path, train_with

if TYPE_CHECKING:
    from rnnx._exported import Exported

_ARTIFACT: Final = Path("artifacts/model.onnx")


@click.command()
@module_options
@click.option(
    "--opset", type=int, default=18, show_default=True, help="Of ONNX; 18 is read by ONNX Runtime, its web build and OpenVINO."
)
@proof_options
@click.option(
    "--allow-mismatch", is_flag=True, help="Write the artifact even where it differs; it says that it is not proven."
)
@click.option("-o", "--output", default=_ARTIFACT, show_default=True, type=click.Path(path_type=Path), help="The artifact.")
@click.option("--json", "as_json", is_flag=True, help="All that was found, for machines.")
def export(output: Path, as_json: bool, opset: int, proof: Any, allow_mismatch: bool, **given: Any) -> None:
    """Export a recurrent module to a sealed ONNX artifact, and to TorchScript beside it.

    A model of ours is trained first where it has no checkpoint. The artifact is compared with the eager module before anything is
    written.

    \b
    rnnx export --model emb_rnn
    rnnx export --module net.py:make_net --checkpoint net.safetensors --example "int64[B=2,T=7] < 50"
    """
    asked = Asked(**given)
    asked.check()
    if asked.name is None and asked.module is None:
        raise click.UsageError("give --model NAME for one of `rnnx models`, or --module FILE.py:FACTORY for your own")
    settings = {"opset": opset, "proof": proof, "allow_mismatch": allow_mismatch}
    done = _export_own(asked, output, settings) if asked.name is None else _export_model(asked, output, settings)
    click.echo(done.to_json() if as_json else str(done))
    if done.replaced is not None:
        click.echo(f"{done.path} held {done.replaced} before; it is replaced", err=True)
    if done.torchscript_refused is not None:
        click.echo(f"no TorchScript: {done.torchscript_refused}", err=True)
    if done.lint.findings:
        click.echo(str(done.lint), err=True)
    if not done.parity.passed:
        click.echo(f"not proven: the artifact differs from the module\n{done.parity.table()}", err=True)


def _export_model(asked: Asked, output: Path, settings: dict[str, Any]) -> "Exported":
    from rnnx._export import check_target
    from rnnx_models import get_recipe

    name = str(asked.name)
    get_recipe(name)  # a misspelt name is told before anything is trained
    path = asked.checkpoint or checkpoint_path(name)
    check_target(output)  # before anything is trained
    if asked.checkpoint is None and not path.exists():
        click.echo(f"no checkpoint at {path}: training {name}", err=True)
        train_with(Options(model=name))

    from rnnx import export as export_module
    from rnnx._cli.progress import proof_progress
    from rnnx_models.checkpoint import load_checkpoint

    recipe, module = load_checkpoint(path, name)
    with proof_progress() as progress:
        return export_module(
            module,
            recipe.example(),
            output,
            codec=recipe.codec(),
            sampling=recipe.sampling(),
            name=name,
            progress=progress,
            **settings,
        )


def _export_own(asked: Asked, output: Path, settings: dict[str, Any]) -> "Exported":
    from rnnx import export as export_module
    from rnnx._cli.progress import proof_progress
    from rnnx._export import check_target

    check_target(output)
    chosen = own_module(asked)
    with proof_progress() as progress:
        return export_module(
            chosen.module, chosen.example, output, states=chosen.states, axes=chosen.axes, progress=progress, **settings
        )
