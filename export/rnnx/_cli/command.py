"""The `rnnx` command: parse, call one library function, print.

Nothing here imports torch before a command needs it: `rnnx infer` and `rnnx --help` run where torch is not installed. Results
go to standard output, progress and remarks to standard error. Bad input ends with one line and exit code 1.
"""

from pathlib import Path
from typing import Any, Final

import click

from rnnx import __version__, missing_package
from rnnx._cli.adopt import adopt
from rnnx._cli.bench import bench
from rnnx._cli.diff import diff
from rnnx._cli.export import export
from rnnx._cli.lint import lint
from rnnx._cli.providers import providers
from rnnx._cli.quantize import quantize
from rnnx._cli.run import generate, infer
from rnnx._cli.selftest import selftest
from rnnx._cli.train import train
from rnnx._cli.verify import verify
from rnnx._describe import Description
from rnnx_runtime import RnnxError
from rnnx_runtime.artifact import open_artifact

_EXPORT_PACKAGES: Final = ("numpy", "onnx", "onnx_ir", "onnxscript", "safetensors", "torch")


class _Commands(click.Group):
    """Turns errors raised on purpose into one line."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # click ends quietly where the reader of a pipe has gone
        except RnnxError as error:
            raise click.ClickException(str(error)) from None
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            raise click.ClickException(f"{where}{error.strerror or error}") from None
        except ModuleNotFoundError as error:
            if error.name is None or error.name.split(".")[0] not in _EXPORT_PACKAGES:
                raise
            raise click.ClickException(missing_package(error)) from None


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="rnnx")
def main() -> None:
    """Takes recurrent PyTorch modules to the edge.

    \b
    rnnx export --model emb_rnn                       train where needed, export, prove
    rnnx infer artifacts/model.onnx --text hello      answer, without torch
    """


@main.command()
def models() -> None:
    """List the models that come with rnnx."""
    from rnnx_models import MODELS

    width = max(map(len, MODELS))
    for name, summary in MODELS.items():
        click.echo(f"{name:<{width}}  {summary}")


main.add_command(train)


main.add_command(adopt)
main.add_command(bench)
main.add_command(export)
main.add_command(diff)
main.add_command(infer)
main.add_command(generate)
main.add_command(lint)
main.add_command(providers)
main.add_command(quantize)
main.add_command(selftest)
main.add_command(verify)


@main.command()
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="The whole manifest, for machines.")
def inspect(artifact: Path, as_json: bool) -> None:
    """Show what an artifact says of itself, without running it."""
    opened = open_artifact(artifact, trust=True)  # it is only read
    operators = [name for name, count in opened.graph.operators.items() for _ in range(count)]
    description = Description(opened.manifest, operators, len(opened.data), opened.digest)
    if as_json:
        click.echo(description.to_json())
        return
    click.echo(f"{artifact}: {opened.manifest.name}")
    for line in description.lines():
        click.echo(line)
