"""`otel-metaflow export`: a run in a format that other programs open."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from otel_metaflow.cli.arguments import fail, folder_of
from otel_metaflow.core import settings
from otel_metaflow.viewer.terminal import echo

if TYPE_CHECKING:
    from otel_metaflow.model.run import Run


FORMATS = ("otlp-json", "perfetto", "jaeger")


@click.command()
@click.argument("run", metavar="FLOW/RUN")
@click.option("--format", "kind", type=click.Choice(FORMATS), required=True, help="What is to open it.")
@click.option("-o", "--output", metavar="FILE", default="-", help="Instead of standard output.")
def export(run: str, kind: str, output: str) -> None:
    """Write a run in a format that other programs open.

    otlp-json: a request a line, for the Collector's otlpjsonfile receiver. perfetto: for ui.perfetto.dev. jaeger: for
    the JSON File tab of Jaeger's search.
    """
    from otel_metaflow.model.run import load
    from otel_metaflow.viewer import formatting

    environment = settings.read()
    folder = folder_of(environment, run)
    found = load(environment.home, folder)
    if found.is_running():
        fail(f"{run} is still running: export it when it has ended, or look at it with `otel-metaflow view {run}`")
    with formatting.busy(f"exporting {run}"):
        text = _exported(environment, folder, found, kind)
    if output == "-":
        echo(text, nl=False)
        return
    try:
        Path(output).write_text(text, encoding="utf-8")
    except OSError as error:
        fail(f"cannot write {output} ({error.strerror}); name another file after --output")
    echo(f"wrote {output}", err=True)


def _exported(environment: settings.Settings, folder: Path, run: Run, kind: str) -> str:
    from otel_metaflow.shipper import otlp_json
    from otel_metaflow.viewer.exports import jaeger, perfetto

    if kind == "perfetto":
        from otel_metaflow.core.redaction import Redaction
        from otel_metaflow.viewer import report, spans

        redaction = Redaction(environment.redact)
        of_users = spans.of_users(folder, run, redaction, sys.maxsize)
        return json.dumps(perfetto.document(report.of_run(run, redaction), of_users)) + "\n"
    requests = otlp_json.requests(environment, folder)
    if kind == "jaeger":
        return json.dumps(jaeger.document(requests)) + "\n"
    return "".join(json.dumps(request, separators=(",", ":")) + "\n" for _, request in requests)
