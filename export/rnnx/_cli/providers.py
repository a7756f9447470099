"""The command that shows execution providers. It never imports torch."""

from pathlib import Path
from typing import Final

import click
import msgspec

from rnnx._cli.run import trusted
from rnnx_runtime import ProviderReport, list_providers

_DEFAULT: Final = Path("artifacts/model.onnx")


@click.command()
@click.argument("artifact", type=click.Path(path_type=Path), required=False)
@trusted
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def providers(artifact: Path | None, trust: bool, as_json: bool) -> None:
    """Show which execution providers this machine has, and run an artifact's golden trace on each.

    \b
    rnnx providers                            with artifacts/model.onnx, where it is there
    rnnx providers artifacts/char.onnx
    rnnx infer artifacts/model.onnx --text hello --provider openvino
    """
    if artifact is None and _DEFAULT.exists():
        artifact = _DEFAULT
    reports = list_providers(artifact, trust=trust)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode({"artifact": artifact and str(artifact), "providers": reports})))
        return
    here = [report for report in reports if report.here]
    click.echo("on this machine" + (f", with the golden trace of {artifact}" if artifact else ""))
    for report in here:
        click.echo(f"  {report.name:<10} {_result(report)}")
    click.echo("not on this machine")
    for report in reports:
        if not report.here:
            click.echo(f"  {report.name:<10} {report.because}")
    if artifact is None:
        click.echo("give an artifact to run its golden trace on each", err=True)


def _result(report: ProviderReport) -> str:
    if report.microseconds is None:
        return report.because or "ready"
    return f"{report.microseconds:8.0f} µs, off by {report.difference:.1e}; {report.because}"
