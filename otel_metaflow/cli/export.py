"""`otel-metaflow export`: write a run in a format for other programs."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from otel_metaflow.cli import runs
from otel_metaflow.cli.arguments import fail
from otel_metaflow.core import settings
from otel_metaflow.journal import layout
from otel_metaflow.viewer.terminal import echo

if TYPE_CHECKING:
    from otel_metaflow.model.run import Run


FORMATS = ("otlp-json", "perfetto", "jaeger")


@click.command()
@click.argument("run", metavar="FLOW/RUN", shell_complete=runs.completion())
@click.option("--format", "kind", type=click.Choice(FORMATS), required=True, help="The format to write.")
@click.option("-o", "--output", metavar="FILE", default="-", help="Write to FILE instead of standard output.")
def export(run: str, kind: str, output: str) -> None:
    """Write a run in a format for other programs.

    RUN is an id, the beginning of one, or latest.

    \b
    otlp-json  one request a line, for the Collector's otlpjsonfile receiver
    perfetto   for ui.perfetto.dev
    jaeger     for the "JSON File" tab of Jaeger's search
    """  # noqa: D301 - for click it is the character
    from otel_metaflow.model.run import load
    from otel_metaflow.viewer import formatting

    environment = settings.read()
    key = runs.find(environment, run)
    folder = layout.run_folder(environment.home, key)
    found = load(environment.home, folder)
    if found.is_running():
        fail(f"{key} is still running; export it once it has ended, and until then type: otel-metaflow view {key}")
    with contextlib.ExitStack() as kept:
        with formatting.busy(f"exporting {key}"):
            lines = _exported(environment, folder, found, kind, kept)
        if output == "-":
            for line in lines:
                echo(line, nl=False)
            return
        try:
            with Path(output).open("w", encoding="utf-8") as file:
                file.writelines(lines)
        except OSError as error:
            fail(f"cannot write {output} ({error.strerror}); choose another --output")
    echo(f"wrote {output}", err=True)


def _exported(
    environment: settings.Settings, folder: Path, run: Run, kind: str, kept: contextlib.ExitStack
) -> Iterable[str]:
    """The lines of the document, which may be in files while `kept` is open."""
    from otel_metaflow.shipper import otlp_json
    from otel_metaflow.viewer.exports import jaeger, perfetto

    if kind == "perfetto":
        from otel_metaflow.core.redaction import Redaction
        from otel_metaflow.viewer import report, spans

        redaction = Redaction(environment.redact)
        of_users = spans.of_users(folder, run, redaction, sys.maxsize)
        return [json.dumps(perfetto.document(report.of_run(run, redaction), of_users)), "\n"]
    if kind == "jaeger":
        requests = kept.enter_context(otlp_json.requests(environment, folder, ["traces"]))
        return [json.dumps(jaeger.document(map(json.loads, requests))), "\n"]
    return kept.enter_context(otlp_json.requests(environment, folder))
