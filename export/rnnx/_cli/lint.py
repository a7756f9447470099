"""The command that looks for silent failures. It never imports torch."""

from typing import Any, Final

import click
import msgspec

from rnnx_runtime import RnnxError

_COLOURS: Final = {"error": "red", "warning": "yellow", "note": "cyan"}


@click.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@click.option("--static", is_flag=True, help="Only look at the graph, run nothing: for files that you do not trust.")
@click.option("--json", "as_json", is_flag=True, help="For machines: a list of reports, one per file.")
def lint(files: tuple[str, ...], static: bool, as_json: bool) -> None:
    """Look for silent failures in ONNX files of any origin.

    Each finding says its rule, what it means, and what to do. The exit code is 1 where there is an error, and 0 where there are
    but warnings and notes. docs/lint.md lists the rules.

    \b
    rnnx lint artifacts/model.onnx
    rnnx lint --static downloaded.onnx
    """
    from rnnx._lint import LintReport
    from rnnx._lint import lint as look

    reports: list[LintReport] = []
    unread: list[dict[str, Any]] = []
    for file in files:
        try:
            report = look(file, static=static)
        except (RnnxError, OSError) as error:  # the other files are looked at all the same
            click.echo(f"Error: {error}", err=True)
            unread.append({"file": file, "error": str(error)})
            continue
        if not as_json:
            _show(report, first=not reports)
        reports.append(report)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode([*(report.to_dict() for report in reports), *unread])))
    if unread or not all(report.passed for report in reports):
        raise SystemExit(1)


def _show(report: Any, *, first: bool) -> None:
    from rnnx._lint.report import details, heading

    if not first:
        click.echo()
    click.secho(report.summary(), bold=True)
    for group in report.groups():
        click.echo()
        click.secho(heading(group), fg=_COLOURS[group[0].severity])
        for line in details(group):
            click.echo(line)
