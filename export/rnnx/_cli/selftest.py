"""The command with which a device tests an artifact. It never imports torch."""

from dataclasses import asdict
from pathlib import Path

import click
import msgspec

from rnnx._cli.run import provider, trusted
from rnnx_runtime import selftest as run_selftest


@click.command()
@click.argument("artifact", type=click.Path(path_type=Path))
@provider
@trusted
@click.option("--json", "as_json", is_flag=True, help="For machines.")
@click.pass_context
def selftest(ctx: click.Context, artifact: Path, providers: tuple[str, ...], trust: bool, as_json: bool) -> None:
    """Run an artifact's golden trace on this very machine, and say how far it is from what was exported.

    Exit code 0 where it is bit-exact or within the tolerance, 1 where it is broken.

    \b
    rnnx selftest artifacts/model.onnx
    rnnx selftest artifacts/model.onnx --provider openvino
    """
    result = run_selftest(artifact, providers=providers or "cpu", trust=trust)
    if as_json:
        said = {"artifact": str(artifact), "passed": result.passed, **asdict(result)}
        click.echo(msgspec.json.format(msgspec.json.encode(said)))
    else:
        click.echo(result)
    ctx.exit(0 if result.passed else 1)
