"""`rnnx export`: one of our models, or anybody's module, to an artifact."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from rnnx._cli_train import Options, checkpoint_path, train_with
from rnnx._errors import ExportError

if TYPE_CHECKING:
    from rnnx._exported import Exported

_ARTIFACT: Final = Path("artifacts/model.onnx")


@click.command()
@click.option("--model", "name", metavar="NAME", help="One of `rnnx models`; it is trained first where it has no checkpoint.")
@click.option("--module", metavar="FILE.py:FACTORY", help="Your own: what returns the module, or (module, example).")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Weights: .safetensors, or .pt with a state_dict.")
@click.option("--arg", "arguments", multiple=True, metavar="NAME=VALUE", help="An argument of the factory; may be repeated.")
@click.option(
    "--example",
    "examples",
    multiple=True,
    metavar="INPUT",
    help='An input of forward, such as "int64[B=2,T=7] < 50" or "x: float32[B=2,T=7,3]"; one per input, in order or by name.',
)
@click.option(
    "--states",
    multiple=True,
    metavar="ARGUMENT=OUTPUT",
    help="Which output hands a state back, where it cannot be found: h=output.1",
)
@click.option("--axes", multiple=True, metavar="INPUT=LETTERS", help="A letter per axis, B and T among them: x=TBF")
@click.option(
    "--opset", type=int, default=18, show_default=True, help="Of ONNX; 18 is read by ONNX Runtime, its web build and OpenVINO."
)
@click.option("-o", "--output", default=_ARTIFACT, show_default=True, type=click.Path(path_type=Path), help="The artifact.")
@click.option("--json", "as_json", is_flag=True, help="All that was found, for machines.")
def export(
    name: str | None,
    module: str | None,
    checkpoint: Path | None,
    arguments: Sequence[str],
    examples: Sequence[str],
    states: Sequence[str],
    axes: Sequence[str],
    opset: int,
    output: Path,
    as_json: bool,
) -> None:
    """Export a recurrent module to a sealed ONNX artifact, and to TorchScript beside it.

    The artifact is compared with the eager module before anything is written.

    \b
    rnnx export --model emb_rnn
    rnnx export --module net.py:make_net --checkpoint net.safetensors --example "int64[B=2,T=7] < 50"
    """
    if (name is None) == (module is None):
        raise click.UsageError("give --model NAME for one of `rnnx models`, or --module FILE.py:FACTORY for your own")
    own = [
        option
        for option, given in (("--arg", arguments), ("--example", examples), ("--states", states), ("--axes", axes))
        if given
    ]
    if name is not None:
        if own:
            raise click.UsageError(f"{own[0]} belongs to --module; --model knows its own")
        done = _export_model(name, checkpoint, output, opset)
    else:
        done = _export_module(str(module), checkpoint, arguments, examples, states, axes, output, opset)
    click.echo(done.to_json() if as_json else str(done))
    if done.replaced is not None:
        click.echo(f"{done.path} held {done.replaced} before; it is replaced", err=True)
    if done.torchscript_refused is not None:
        click.echo(f"no TorchScript: {done.torchscript_refused}", err=True)


def _export_model(name: str, checkpoint: Path | None, output: Path, opset: int) -> "Exported":
    from rnnx._export import check_target
    from rnnx_models import get_recipe

    get_recipe(name)  # a misspelt name is told before anything is trained
    path = checkpoint or checkpoint_path(name)
    check_target(output)  # before anything is trained
    if checkpoint is None and not path.exists():
        click.echo(f"no checkpoint at {path}: training {name}", err=True)
        train_with(Options(model=name))

    from rnnx import export as export_module
    from rnnx_models.checkpoint import load_checkpoint

    recipe, module = load_checkpoint(path, name)
    return export_module(
        module, recipe.example(), output, codec=recipe.codec(), sampling=recipe.sampling(), name=name, opset=opset
    )


def _export_module(
    target: str,
    checkpoint: Path | None,
    arguments: Sequence[str],
    examples: Sequence[str],
    states: Sequence[str],
    axes: Sequence[str],
    output: Path,
    opset: int,
) -> "Exported":
    from rnnx import export as export_module
    from rnnx._export import check_target
    from rnnx._given import as_example, load_weights, make_module, parse_arguments, parse_example, parse_pairs

    check_target(output)
    described = parse_example(examples)
    pairs, letters = parse_pairs("--states", states, "h=output.1"), parse_pairs("--axes", axes, "x=BTF") or {}
    module, example = make_module(target, parse_arguments(arguments))
    if checkpoint is not None:
        load_weights(module, checkpoint)
    if described:
        given: Any
        given, found = as_example(module, described)
        letters = found | letters
    elif example is not None:
        given = example
    else:
        raise ExportError(
            f'{target} returns no example beside the module; describe its inputs, such as --example "float32[B=2,T=7,3]"'
        )
    return export_module(module, given, output, states=pairs, axes=letters or None, opset=opset)
