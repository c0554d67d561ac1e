"""What a deployment holds for containers: the code, the settings and the witness, and nothing that is to stay here."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from another_metaflow import beside
from fake_pod import Cluster
from moto.server import ThreadedMotoServer
from running import Place

FLOW = """
    from metaflow import FlowSpec, environment, otel, step
    class DeployedFlow(FlowSpec):
        @otel
        @step
        def start(self):
            self.next(self.middle)
        @otel
        @environment(vars={"OTEL_SERVICE_NAME": "of the step", "MINE": "1"})
        @step
        def middle(self):
            self.next(self.end)
        @step
        def end(self):
            pass
    if __name__ == "__main__":
        DeployedFlow()
    """
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SECRETS = {
    "OTEL_EXPORTER_OTLP_HEADERS": "api-key=hunter2hunter2",
    "TRACEPARENT": PARENT,
    "BAGGAGE": "who=me",
    "OTEL_EXPORTER_OTLP_CERTIFICATE": "/etc/hostname",
}
GIVEN = {
    **SECRETS,
    "OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318",
    "OTEL_METAFLOW_REMOTE_ENDPOINT": "http://collector:4318",
    "OTEL_SERVICE_NAME": "of the host",
    "OTEL_TRACES_SAMPLER_ARG": "0.5",
}
PASSED = {
    "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318",
    "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
    "OTEL_SERVICE_NAME": "of the host",
    "OTEL_TRACES_SAMPLER_ARG": "0.5",
}
Job = tuple[dict[str, str], str]  # its variables and its command


class Deployer:
    """Deploys flows, and reads what was made of their steps."""

    def __init__(self, place: Place, bucket: str) -> None:
        self.cluster = Cluster(place, "")
        self.place = place
        self.bucket = bucket

    def flow(self, *arguments: str, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        finished = subprocess.run(
            [sys.executable, str(self.place.write(FLOW)), "--no-pylint", *arguments],
            cwd=self.place.path, env=self.place.environ(env), capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert finished.returncode == 0, finished.stderr
        return finished

    def deploy(self, to: str, *arguments: str, env: Mapping[str, str]) -> tuple[dict[str, Job], str]:
        """The containers of steps as the deployment has them, and what was printed on stderr."""
        here = self.cluster.environ() if to != "step-functions" else self.aws()
        command = {"airflow": ["create", "dag.py"]}.get(to, ["create", "--only-json"])
        finished = self.flow("--with", "cluster", *arguments, to, *command, env={**here, **env})
        made = (self.place.path / "dag.py").read_text() if to == "airflow" else finished.stdout
        for secret in SECRETS.values():
            assert secret not in made
        return dict(getattr(self, to.replace("-", "_"))(made)), finished.stderr

    def aws(self) -> dict[str, str]:
        role = "arn:aws:iam::123456789012:role/x"
        return {
            **self.cluster.environ(),
            "METAFLOW_DEFAULT_DATASTORE": "s3", "METAFLOW_DATASTORE_SYSROOT_S3": "s3://bucket/metaflow",
            "METAFLOW_S3_ENDPOINT_URL": self.bucket, "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x",
            "AWS_DEFAULT_REGION": "us-east-1", "METAFLOW_BATCH_JOB_QUEUE": "queue",
            "METAFLOW_ECS_S3_ACCESS_IAM_ROLE": role, "METAFLOW_SFN_IAM_ROLE": role,
            "METAFLOW_EVENTS_SFN_ACCESS_IAM_ROLE": role, "METAFLOW_ECS_FARGATE_EXECUTION_ROLE": role,
            "AWS_ENDPOINT_URL": self.bucket, "AWS_EC2_METADATA_DISABLED": "true",
        }  # fmt: skip

    def argo_workflows(self, made: str) -> Iterator[tuple[str, Job]]:
        for template in json.loads(made[made.index("{") :])["spec"]["templates"]:
            if "container" in template and "hook" not in template["name"]:
                yield template["name"], _job(template["container"], "name", "value")

    def airflow(self, made: str) -> Iterator[tuple[str, Job]]:
        config: dict[str, Any] = {}
        exec(re.search(r"^CONFIG = .*$", made, re.MULTILINE).group(), {}, config)  # type: ignore[union-attr]
        for name, state in config["CONFIG"]["states"].items():
            arguments = state["operator_args"]
            env = {each["name"]: each.get("value") for each in arguments["env_vars"]}
            yield name, (env, " ".join(arguments["cmds"]))

    def step_functions(self, made: str) -> Iterator[tuple[str, Job]]:
        for name, state in json.loads(made[made.index("{") :])["States"].items():
            if "ContainerOverrides" in state.get("Parameters", {}):
                overrides = state["Parameters"]["ContainerOverrides"]
                overrides["command"] = overrides.pop("Command")
                overrides["env"] = overrides.pop("Environment")
                yield name, _job(overrides, "Name", "Value")


def _job(container: Mapping[str, Any], name: str, value: str) -> Job:
    return {each[name]: each.get(value) for each in container["env"]}, " ".join(container["command"])


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The address of an S3 with a bucket."""
    import boto3

    server = ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    aws = boto3.Session(aws_access_key_id="x", aws_secret_access_key="x", region_name="us-east-1")
    s3, iam, ec2, batch = (aws.client(name, endpoint_url=address) for name in ("s3", "iam", "ec2", "batch"))
    s3.create_bucket(Bucket="bucket")
    role = iam.create_role(RoleName="x", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    resources = {
        "type": "FARGATE",
        "maxvCpus": 1,
        "subnets": [ec2.describe_subnets()["Subnets"][0]["SubnetId"]],
        "securityGroupIds": [ec2.describe_security_groups()["SecurityGroups"][0]["GroupId"]],
    }
    batch.create_compute_environment(
        computeEnvironmentName="fleet", type="MANAGED", state="ENABLED", serviceRole=role, computeResources=resources
    )
    order = [{"order": 1, "computeEnvironment": "fleet"}]
    batch.create_job_queue(jobQueueName="queue", state="ENABLED", priority=1, computeEnvironmentOrder=order)
    yield address
    server.stop()


@pytest.fixture
def deployer(place: Place, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Deployer:
    monkeypatch.setattr("fake_pod.bare", lambda _: Path("/none"))
    return Deployer(place, bucket)


@pytest.mark.parametrize("to", ["argo-workflows", "step-functions", "airflow"])
def test_a_deployment_carries_settings_and_witness_and_no_secret(deployer: Deployer, to: str) -> None:
    """On all steps with `@otel`, and on no other; a step's own setting goes first."""
    jobs, printed = deployer.deploy(to, env=GIVEN)
    assert jobs.keys() == {"start", "middle", "end"}
    for step, (env, command) in jobs.items():
        ours = {name: value for name, value in env.items() if name.startswith(("OTEL_", "TRACE", "BAGGAGE"))}
        if step == "end":
            assert (ours, "witness.sh" in command) == ({}, False)
            continue
        assert ours == {**PASSED, **({"OTEL_SERVICE_NAME": "of the step"} if step == "middle" else {})}
        assert command.count("witness.sh") == 2
        # Once the code is unpacked, before the environment of the step is made, in the shell of the step.
        assert re.search(
            r"&& \((export [^&]+&& )?([^&]*set_parameters [^(]* && \. [^&]* && )?if \[ -r \.mf_code/otel-met", command
        )
    assert jobs["middle"][0]["MINE"] == "1"
    assert "otel: " not in printed


def test_settings_do_not_get_onto_command_lines(deployer: Deployer) -> None:
    """Where `@environment` was given by `--with`, which Metaflow repeats on the command line of each task."""
    jobs, _ = deployer.deploy("argo-workflows", "--with", 'environment:vars={"MINE": "2"}', env=GIVEN)
    env, command = jobs["start"]
    assert (env["MINE"], env["OTEL_SERVICE_NAME"]) == ("2", "of the host")
    assert "of the host" not in command


def test_steps_on_batch_log_to_a_group_of_their_own_where_that_is_asked_for(deployer: Deployer) -> None:
    """So that whoever reads the other group has no line twice; a step with a choice of its own keeps it."""
    import boto3

    def groups(*arguments: str, env: Mapping[str, str]) -> list[Any]:
        deployer.deploy("step-functions", *arguments, env={**GIVEN, **env})
        aws = boto3.Session(aws_access_key_id="x", aws_secret_access_key="x", region_name="us-east-1")
        batch = aws.client("batch", endpoint_url=deployer.bucket)
        jobs = batch.describe_job_definitions()["jobDefinitions"]
        return [job["containerProperties"].get("logConfiguration") for job in jobs]

    before = groups(env={})
    assert before == [None] * len(before)
    after = groups(env={"OTEL_METAFLOW_BATCH_LOG_GROUP": "/metaflow/otel"})[len(before) :]
    ours = {"logDriver": "awslogs", "options": {"awslogs-group": "/metaflow/otel"}}
    assert after == [ours]  # of the steps with @otel, which share it; that without has the one from before


def test_variables_that_containers_do_not_get_are_reported_once(deployer: Deployer) -> None:
    jobs, printed = deployer.deploy(
        "argo-workflows",
        env={
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318",
            "OTEL_METAFLOW_TRACE_URL": "http://x/{{trace_id}}",
        },
    )
    assert not any(name.startswith("OTEL_E") for name in jobs["start"][0])
    notices = [line for line in printed.splitlines() if line.startswith("otel: ")]
    assert len(notices) == 2
    assert "OTEL_METAFLOW_REMOTE_ENDPOINT" in notices[0]
    assert "OTEL_METAFLOW_TRACE_URL is not passed to containers" in notices[1]


def members(deployer: Deployer, *arguments: str) -> dict[str, int]:
    """What is in the code package that a flow saves, with its bytes as packed."""
    file = deployer.place.path / "package.tgz"
    deployer.flow(*arguments, "package", "save", str(file), env=deployer.cluster.environ())
    with tarfile.open(file) as archive:
        found = {member.name: member.size for member in archive.getmembers()}
        ours = [name for name in found if "otel_metaflow/" in name]
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=3) as again:
            for name in ours:
                again.addfile(archive.getmember(name), archive.extractfile(name))
    return {**found, "": len(packed.getvalue()) if ours else 0}


def test_the_code_of_a_task_and_its_shipper_travels_with_a_remote_step(deployer: Deployer) -> None:
    """In a folder that can hide no module of the user's; nothing that draws, and no more than 200 kB."""
    found = members(deployer, "--with", "kubernetes")
    ours = {name for name in found if "otel_metaflow/" in name}
    folder = ".mf_code/otel-metaflow/otel_metaflow/"
    assert all(name.startswith(folder) for name in ours)
    assert {name.removeprefix(folder).split("/")[0] for name in ours} == {
        "__init__.py", "core", "journal", "model", "shipper", "task",
    }  # fmt: skip
    assert f"{folder}task/witness.sh" in ours
    assert found[""] < 200_000


def test_a_local_run_packages_nothing_of_it(deployer: Deployer) -> None:
    """Nor does it look."""
    (deployer.place.path / "sitecustomize.py").write_text(
        "import atexit, sys\n"
        "def loaded():\n"
        "    names = [name for name in sys.modules if 'otel_metaflow.launcher' in name]\n"
        "    sys.stderr.write(f'LOADED {names}\\n')\n"
        "atexit.register(loaded)\n"
    )
    finished = deployer.place.run(FLOW, env={"PYTHONPATH": str(deployer.place.path)})
    assert finished.code == 0
    loaded = max(line for line in finished.stderr.splitlines() if line.startswith("LOADED"))
    assert "launcher.run" in loaded
    assert "code_package" not in loaded
    assert "remote" not in loaded


@pytest.mark.parametrize(
    "name",
    [
        "metaflow.plugins.environment_decorator.EnvironmentDecorator",
        "metaflow.metaflow_environment.MetaflowEnvironment.bootstrap_commands",
    ],
)
def test_a_metaflow_that_is_built_differently_deploys_as_without_us(deployer: Deployer, name: str) -> None:
    """One line names what is missing then."""
    broken = deployer.place.path / "broken"
    broken.mkdir()
    hidden = beside(broken, name)
    path = os.pathsep.join([hidden["PYTHONPATH"], deployer.cluster.environ()["PYTHONPATH"]])
    jobs, printed = deployer.deploy("argo-workflows", env={**GIVEN, **hidden, "PYTHONPATH": path})
    assert jobs.keys() == {"start", "middle", "end"}
    (line,) = (line for line in printed.splitlines() if line.startswith("otel: "))
    assert "not recorded: " in line
