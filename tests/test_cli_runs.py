"""Which run is meant by `latest` and by the beginning of an id, in every command and in the shell's completion."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import click
import pytest
from endpoint import Endpoint
from journals import BEGIN, SECOND, Journals
from running import Place

from otel_metaflow.cli import runs
from otel_metaflow.cli.main import main
from otel_metaflow.core import ids, settings


def run_of(home: Path, flow: str, run: str, began: float, steps: tuple[str, ...] = ("start",)) -> None:
    """A run that took a second and succeeded."""
    made = Journals(home, flow, run, timeUnixNano=BEGIN + int(began * SECOND))
    for number, step in enumerate(steps):
        made.step(step)
        made.attempt(step, number + 1, began, 1, lines=[f"{run} printed"])
    made.end(began + 2)


@pytest.fixture
def home(place: Place) -> Path:
    """Runs of two flows; the folder written to last is not that of the run that started last."""
    run_of(place.home, "Other", "9", 50)
    run_of(place.home, "Flow", "1999", 40, ("start", "train"))
    run_of(place.home, "Flow", "12", 10)
    run_of(place.home, "Flow", "1", 20)
    run_of(place.home, "Flow", "argo-abc-x7", 30)
    return place.home


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("Flow/latest", "1999"),
        ("Flow/1", "1"),  # an id, also if others begin with it
        ("Flow/12", "12"),
        ("Flow/19", "1999"),
        ("Flow/a", "argo-abc-x7"),
        ("Other/latest", "9"),
        ("Other/9", "9"),
    ],
)
def test_a_run_is_meant_by_its_id_by_a_unique_prefix_or_as_the_latest(home: Path, name: str, meant: str) -> None:
    found = runs.find(settings.read({"OTEL_METAFLOW_HOME": str(home)}), name)
    assert found == (name.partition("/")[0], meant, "")


def test_a_namespace_has_its_own_runs(home: Path) -> None:
    """Neither `latest` nor a prefix reaches into another."""
    environment = settings.read({"OTEL_METAFLOW_HOME": str(home), "OTEL_METAFLOW_ID_NAMESPACE": "prod"})
    with pytest.raises(SystemExit):
        runs.find(environment, "Flow/latest")


def test_an_ambiguous_prefix_lists_the_candidates_in_one_line(place: Place) -> None:
    """The newest first, and not more than one can read."""
    for number in range(7):
        run_of(place.home, "Flow", f"12{number}", number)
    refused = place.cli("view", "Flow/12")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == (
        "otel-metaflow: Flow/12 is ambiguous: Flow/126, Flow/125, Flow/124, Flow/123, Flow/122 and 2 more; "
        "type more of the id\n"
    )


@pytest.mark.parametrize("name", ["Flow/3", "Third/latest", "Third/1"])
def test_a_missing_run_names_the_latest_runs(place: Place, home: Path, name: str) -> None:
    refused = place.cli("export", name, "--format", "jaeger")
    assert refused.returncode == 2
    assert refused.stderr == (
        f"otel-metaflow: no journal of {name} in {home}; "
        "the latest runs: Other/9, Flow/1999, Flow/argo-abc-x7, Flow/1, Flow/12\n"
    )


def test_every_command_that_takes_a_run_takes_latest_and_a_prefix(place: Place, home: Path, tmp_path: Path) -> None:
    """Messages and file names have the id that was found."""
    assert json.loads(place.cli("view", "Flow/latest", "--json").stdout)["run"] == "1999"
    assert json.loads(place.cli("view", "Flow/19/train", "--json").stdout)["run"] == "1999"
    assert "1999 printed" in place.cli("view", "Flow/latest/train/2/0", "--logs").stdout
    assert place.cli("compare", "Flow/a", "Flow/latest", "--json").returncode == 0
    exported = place.cli("export", "Flow/latest", "--format", "otlp-json")
    assert ids.trace_id("Flow", "1999") in exported.stdout
    with Endpoint() as receiver:
        shipped = place.cli("ship", "Flow/19", env={"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url})
    assert (shipped.returncode, shipped.stdout.partition(":")[0]) == (0, "Flow/1999"), shipped.stderr
    latest = place.cli("id", "Flow/latest/train/2")
    assert latest.stdout == place.cli("id", "Flow/1999/train/2").stdout
    # The id of a run to come may be the beginning of another's.
    assert place.cli("id", "Flow/19").stdout.split()[1] == ids.trace_id("Flow", "19")


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        (["view", ""], ["Other/latest", "Other/9", "Flow/latest", "Flow/1999"]),
        (["view", "Fl"], ["Flow/latest", "Flow/1999"]),
        (["view", "Flow/"], ["Flow/latest", "Flow/1999", "Flow/argo-abc-x7", "Flow/1", "Flow/12"]),
        (["ship", "Flow/1"], ["Flow/1999", "Flow/1", "Flow/12"]),
        (["compare", "Flow/1", "Oth"], ["Other/latest", "Other/9"]),
        (["view", "Flow/latest/"], ["Flow/latest/start", "Flow/latest/train"]),
        (["id", "Flow/1999/t"], ["Flow/1999/train"]),
        (["view", "Flow/1999/train/"], ["Flow/1999/train/2"]),
        (["view", "Flow/1999/train/2/"], ["Flow/1999/train/2/0"]),
        (["view", "Flow/1999/train/2/0/"], []),
        (["export", "Flow/1999/"], []),
        (["view", "None/"], []),
        (["view", "None/latest/"], []),
        (["vi"], ["view"]),
    ],
)
def test_a_shell_completes_flows_runs_steps_tasks_and_attempts(
    place: Place, home: Path, typed: list[str], offered: list[str]
) -> None:
    """By click's own protocol, as bash asks it."""
    asked = {
        "_OTEL_METAFLOW_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(["otel-metaflow", *typed]),
        "COMP_CWORD": str(len(typed)),
    }
    answered = place.cli(env=asked)
    assert list(filter(None, answered.stdout.splitlines())) == [f"plain,{name}" for name in offered]
    assert answered.stderr == ""


def test_help_explains_how_to_enable_completion(place: Place) -> None:
    """The line for bash works as it stands."""
    (line,) = [line for line in place.cli("--help").stdout.splitlines() if "  ~/.bashrc" in line]
    variable = line.partition("$(")[2].partition("=")[0]
    assert variable == "_OTEL_METAFLOW_COMPLETE"
    assert "_otel_metaflow_completion" in place.cli(env={variable: "zsh_source"}).stdout


@pytest.mark.parametrize("command", [None, *sorted(main.commands)])
def test_help_fits_80_columns_and_cuts_no_sentence(command: str | None) -> None:
    context = click.Context(main, info_name="otel-metaflow", terminal_width=80)
    if command is not None:
        context = click.Context(main.commands[command], context, command, terminal_width=80)
    lines = context.command.get_help(context).splitlines()[1:]
    assert [line for line in lines if len(line) > 80 or line.endswith("...")] == []
    assert not [character for line in lines for character in line if not character.isprintable()]


# What goes with what of `view`: all else is refused. By how many names of FLOW/RUN/STEP/TASK/ATTEMPT are given.
_PATHSPECS = ("", "Flow", "Flow/1999", "Flow/1999/train", "Flow/1999/train/2", "Flow/1999/train/2/0")
_LISTS = {frozenset(), frozenset({"--limit"}), frozenset({"--json"}), frozenset({"--limit", "--json"})}
_LOGS = {
    frozenset(chosen)
    for size in (1, 2)
    for chosen in itertools.combinations(("--logs", "--errors", "--follow", "--json"), size)
}
_PAGES = {frozenset({"--html"}), frozenset({"--open"}), frozenset({"--html", "--open"})}
_ALLOWED = {
    0: _LISTS,
    1: _LISTS,
    2: {frozenset(), frozenset({"--all"})} | _LOGS | _PAGES,
    3: {frozenset(), frozenset({"--all"})} | _LOGS,
    4: {frozenset()} | _LOGS,
    5: {frozenset()} | _LOGS,
}
_OPTIONS = {
    "--limit": ["--limit", "3"],
    "--logs": ["--logs"],
    "--errors": ["--errors"],
    "--follow": ["--follow"],
    "--all": ["--all"],
    "--html": ["--html", "page.html"],
    "--open": ["--open"],
    "--json": ["--json"],
}


@pytest.mark.parametrize("depth", range(6))
def test_options_of_view_that_do_not_go_together_are_refused_in_one_line(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, depth: int
) -> None:
    """Every option alone and every pair, of every part of a run."""
    from click.testing import CliRunner

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OTEL_METAFLOW_HOME", str(home))
    monkeypatch.setattr(click, "launch", lambda _url: 0)
    for size in (0, 1, 2):
        for chosen in itertools.combinations(_OPTIONS, size):
            typed = [word for name in chosen for word in _OPTIONS[name]]
            pathspec = [_PATHSPECS[depth]] if depth else []
            result = CliRunner().invoke(main, ["view", *pathspec, *typed])
            if frozenset(chosen) in _ALLOWED[depth]:
                assert result.exit_code == 0, (pathspec, chosen, result.output)
                continue
            assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1), (pathspec, chosen)
            assert any(name in result.stderr for name in chosen)
    assert list(tmp_path.glob("page.html")) == ([tmp_path / "page.html"] if depth == 2 else [])


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["view", "Flow/1", "--html", "x", "--logs"], "--logs cannot be combined with --html; drop one of them"),
        (
            ["view", "Flow/1/start", "--html", "x"],
            "--html is for a whole run, as in `otel-metaflow view HelloFlow/latest --html run.html`",
        ),
        (
            ["view", "Flow/1", "--limit", "3"],
            "--limit is for the list of runs, as in `otel-metaflow view --limit 5`",
        ),
        (
            ["view", "Flow", "--logs"],
            "--logs is for a run or a part of it, as in `otel-metaflow view HelloFlow/latest --logs`",
        ),
        (
            ["view", "Flow/1", "--html", "-", "--open"],
            "--open cannot be combined with --html -; name a file after --html, or drop it",
        ),
        (["ship", "Flow/1", "--all"], "--all cannot be combined with a run; drop one of them"),
        (["ship"], "no run given; type one, as in `otel-metaflow ship HelloFlow/latest`, or --all"),
    ],
)
def test_the_line_names_both_and_what_to_type(place: Place, home: Path, typed: list[str], message: str) -> None:
    refused = place.cli(*typed, env={"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"})
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == f"otel-metaflow: {message}\n"
    assert not (place.path / "x").exists()


def test_following_a_run_that_has_ended_ends_too(place: Place, home: Path) -> None:
    followed = place.cli("view", "Flow/1999", "--follow")
    assert (followed.returncode, followed.stderr) == (0, "")
    assert "1999 printed" in followed.stdout
