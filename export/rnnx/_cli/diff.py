"""The command that compares two files. It never imports torch."""

from pathlib import Path

import click

from rnnx._cli.run import trusted
from rnnx_runtime import RnnxError


class _Trouble(click.ClickException):
    """What kept the files from being compared."""

    exit_code = 2


@click.command()
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@trusted
@click.option("--json", "as_json", is_flag=True, help="Everything, for machines.")
@click.pass_context
def diff(ctx: click.Context, a: Path, b: Path, trust: bool, as_json: bool) -> None:
    """Compare two artifacts, or other ONNX files: what changes for those who use A when B takes its place?

    \b
    rnnx diff old.onnx new.onnx
    rnnx diff old.onnx new.onnx > report.txt && echo "nothing has changed"

    The first line is the verdict. Then come contract, weights, graph, behaviour (what both answer to both golden traces), what
    was left out, and what made the files, which alone makes no difference.

    Exit code as diff's: 0 where contract, weights, graph and behaviour are the same to the bit, 1 where something differs, 2 where
    the files cannot be compared.
    """
    try:
        from rnnx._diff.difference import diff as compare

        found = compare(a, b, trust=trust)
    except RnnxError as error:
        raise _Trouble(str(error)) from None
    except ModuleNotFoundError as error:
        if error.name != "onnx":
            raise
        raise _Trouble("rnnx diff needs onnx, which is not installed: pip install 'rnnx[export]'") from None
    click.echo(found.to_json() if as_json else str(found))
    ctx.exit(0 if found.same else 1)
