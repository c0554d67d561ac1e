"""The reference setups in collector/agents/, held against the files that a real run writes."""

from __future__ import annotations

import configparser
import fnmatch
import json
import re
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import yaml
from collectors import ROOT
from running import Place

from otel_metaflow.shipper import log_files

AGENTS = ROOT / "collector/agents"
# https://docs.datadoghq.com/logs/log_configuration/pipelines/#preprocessing
DATADOG_LOOKS_FOR = {
    "timestamp": {"@timestamp", "timestamp", "_timestamp", "Timestamp", "eventTime", "date", "published_date"},
    "severity": {"status", "severity", "level", "syslog.severity"},
    "service": {"service", "syslog.appname", "dd.service"},
    "message": {"message", "msg", "log"},
    "trace_id": {"dd.trace_id", "contextMap.dd.trace_id", "named_tags.dd.trace_id", "trace_id"},
}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What a run writes, as an agent reads it."""
    place = Place(tmp_path_factory.mktemp("run"))
    directory = place.path / "metaflow"
    finished = place.run(ROOT / "examples/hello.py", env={"OTEL_METAFLOW_LOG_DIR": str(directory)})
    finished.wait_delivered()
    return (directory / log_files.NAME).read_text()


def conf(path: Path) -> configparser.RawConfigParser:
    """A .conf file of Splunk."""
    parser = configparser.RawConfigParser(delimiters=("=",), comment_prefixes=("#",), strict=True)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(path.read_text())
    return parser


class CloudFormation(yaml.SafeLoader):
    """YAML with CloudFormation's tags, such as !Ref."""


CloudFormation.add_multi_constructor("!", lambda loader, suffix, node: {suffix: loader.construct_scalar(node)})


def test_the_datadog_agent_finds_file_and_fields(text: str) -> None:
    (source,) = yaml.safe_load((AGENTS / "datadog-agent/conf.d/metaflow.d/conf.yaml").read_text())["logs"]
    assert source["type"] == "file"
    assert Path(source["path"]).name == log_files.NAME
    assert source["start_position"] == "beginning"
    assert source["service"]
    assert source["source"]
    for line in text.splitlines():
        record = json.loads(line)
        for field, understood in DATADOG_LOOKS_FOR.items():
            # Found, and under one name only: the first of several would win, whichever that is.
            assert [name for name in record if name in understood] == [field], line


def test_the_datadog_agent_listens_where_flows_send() -> None:
    agent = yaml.safe_load((AGENTS / "datadog-agent/datadog.yaml").read_text())
    protocols = agent["otlp_config"]["receiver"]["protocols"]
    assert protocols["http"]["endpoint"] == "localhost:4318"
    assert protocols["grpc"]["endpoint"] == "localhost:4317"
    assert agent["logs_enabled"]
    assert agent["otlp_config"]["logs"]["enabled"]


def test_the_splunk_forwarder_reads_each_line_as_an_event_of_its_time(text: str) -> None:
    inputs, props = conf(AGENTS / "splunk-forwarder/inputs.conf"), conf(AGENTS / "splunk-forwarder/props.conf")
    (monitor,) = inputs.sections()
    assert monitor.startswith("monitor://")
    assert fnmatch.fnmatch(f"/var/log/metaflow/{log_files.NAME}", monitor.removeprefix("monitor://"))
    settings: Any = props[inputs[monitor]["sourcetype"]]
    assert (settings["INDEXED_EXTRACTIONS"], settings["KV_MODE"]) == ("json", "none")

    # What Splunk would break the file at, its first group thrown away.
    events = [event for event in re.split(settings["LINE_BREAKER"], text) if event.strip()]
    assert len(events) == len(text.splitlines())
    for event in events:
        record = json.loads(event)
        at = datetime.strptime(
            record[settings["TIMESTAMP_FIELDS"]], settings["TIME_FORMAT"].replace("%6N", "%f")
        ).replace(tzinfo=timezone.utc)
        assert abs(datetime.now(timezone.utc) - at) < timedelta(hours=1)
        assert len(event.encode()) < int(settings["TRUNCATE"])
        assert record["metaflow.run.id"]


@pytest.mark.parametrize("number", [1, 9])
def test_a_renamed_file_is_no_new_one(number: int) -> None:
    """The Agent watches the file in use, and follows it; a forwarder knows a file by its beginning, not by its name."""
    renamed = f"/var/log/metaflow/{log_files.NAME}.{number}"
    (source,) = yaml.safe_load((AGENTS / "datadog-agent/conf.d/metaflow.d/conf.yaml").read_text())["logs"]
    assert not fnmatch.fnmatch(renamed, source["path"])
    inputs = conf(AGENTS / "splunk-forwarder/inputs.conf")
    (monitor,) = inputs.sections()
    assert fnmatch.fnmatch(renamed, monitor.removeprefix("monitor://"))
    assert not fnmatch.fnmatch("/var/log/metaflow/.lock", monitor.removeprefix("monitor://"))
    assert "crcSalt" not in inputs[monitor]


def test_two_files_do_not_begin_alike(text: str) -> None:
    """What a forwarder knows a file by: its first bytes hold the record's own id and time."""
    inputs = conf(AGENTS / "splunk-forwarder/inputs.conf")
    (monitor,) = inputs.sections()
    beginning = text[: int(inputs[monitor]["initCrcLength"])]
    first = json.loads(text.splitlines()[0])
    assert first["timestamp"] in beginning
    assert first["span_id"] in beginning


def test_the_lambda_forwarder_is_subscribed_and_may_be_called() -> None:
    template = yaml.load((AGENTS / "lambda-forwarder/template.yaml").read_text(), CloudFormation)
    resources = template["Resources"]
    subscription = resources["Subscription"]
    permission = resources["MayBeCalled"]
    assert subscription["Type"] == "AWS::Logs::SubscriptionFilter"
    assert permission["Type"] == "AWS::Lambda::Permission"
    assert subscription["DependsOn"] == "MayBeCalled"
    assert subscription["Properties"]["DestinationArn"] == permission["Properties"]["FunctionName"]
    assert template["Parameters"]["LogGroup"]["Default"] == "/aws/batch/job"
    used = set(re.findall(r"\b(ForwarderArn|LogGroup)\b", json.dumps(resources)))
    assert used == set(template["Parameters"])


def test_every_setup_is_described() -> None:
    """Nothing lies in collector/agents/ that its page does not link to."""
    page = (AGENTS / "README.md").read_text()
    for path in AGENTS.rglob("*.*"):
        if path.is_file() and path.name != "README.md":
            relative = path.relative_to(AGENTS)
            assert str(relative) in page or f"({relative.parent}/)" in page, relative
