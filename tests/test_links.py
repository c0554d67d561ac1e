"""The link from a run to its trace: at its end, in what is shown of it, and in Metaflow's metadata."""

from __future__ import annotations

import subprocess
import sys

import pytest
from collectors import ROOT
from endpoint import Endpoint
from running import Place

from otel_metaflow.core import ids, settings, trace_links

JAEGER = "http://localhost:16686/trace/{trace_id}"


def test_every_place_is_filled_and_other_braces_stay() -> None:
    """Grafana's addresses hold JSON; names may hold anything."""
    template = 'https://grafana.example.com/explore?left={"query":"{trace_id}"}&of={flow}/{run}#{span_id}'
    assert trace_links.fill(template, "My Flow", "sfn-1/2", "ab12", "cd34") == (
        'https://grafana.example.com/explore?left={"query":"ab12"}&of=My%20Flow/sfn-1%2F2#cd34'
    )


@pytest.mark.parametrize("template", ["localhost/{trace_id}", "http://localhost:16686/", "javascript:alert({run})"])
def test_an_invalid_template_is_one_clear_line(template: str) -> None:
    (problem,) = settings.read({trace_links.VARIABLE: template}).problems
    assert problem.startswith(
        f"OTEL_METAFLOW_TRACE_URL is {template!r}, which is not a URL with a placeholder; set it to"
    )


def test_the_readmes_templates_are_templates() -> None:
    """Those that it gives for each back end."""
    given = [
        part
        for line in (ROOT / "docs/configuration.md").read_text().splitlines()
        for part in line.split("`")
        if part.startswith("http") and "{trace_id}" in part
    ]
    assert len(given) >= 4
    assert [trace_links.problem(template) for template in given] == [None] * len(given)


def test_a_run_ends_with_the_link_and_each_attempt_has_one_to_its_span(place: Place) -> None:
    """The second line of the end; `Task(…).metadata_dict` of the client."""
    with Endpoint() as endpoint:
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url, trace_links.VARIABLE: JAEGER + "?uiFind={span_id}"}
        finished = place.run(ROOT / "examples/hello.py", "--with", "otel", env=env)
        finished.wait_delivered()
    trace_id = ids.trace_id("HelloFlow", finished.run)
    url = f"http://localhost:16686/trace/{trace_id}?uiFind="
    assert finished.stderr.splitlines()[-1] == f"otel: trace {url}{ids.run_span_id('HelloFlow', finished.run)}"
    assert url in place.cli("view", f"HelloFlow/{finished.run}", env=env).stdout
    client = (
        "from metaflow import Task, namespace; namespace(None); "
        f"print(Task('HelloFlow/{finished.run}/start/1').metadata_dict['otel-trace-url'])"
    )
    printed = subprocess.run(
        [sys.executable, "-c", client], cwd=place.path, env=place.environ(), capture_output=True, text=True, check=True
    )
    assert printed.stdout.strip() == url + ids.attempt_span_id("HelloFlow", finished.run, "start", "1", 0)


def test_a_run_inside_a_trace_links_to_that(place: Place) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    with Endpoint() as endpoint:
        finished = place.run(
            ROOT / "examples/hello.py",
            "--with",
            "otel",
            env={
                "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url,
                trace_links.VARIABLE: JAEGER,
                "TRACEPARENT": f"00-{trace}-b7ad6b7169203331-01",
            },
        )
        finished.wait_delivered()
    assert finished.stderr.splitlines()[-1] == f"otel: trace http://localhost:16686/trace/{trace}"


def test_nothing_is_linked_to_that_is_not_sent(place: Place) -> None:
    finished = place.run(ROOT / "examples/hello.py", "--with", "otel", env={trace_links.VARIABLE: JAEGER})
    assert "localhost:16686" not in finished.stderr  # the id of a run may have any digits
