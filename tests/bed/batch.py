"""AWS Batch: localbatch's API, which Metaflow's own CI uses, with jobs in containers of ours.

localbatch's own containers have no memory limits, and a network of their own; their variables are as it has them.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import uvicorn
from collectors import free_ports
from containers import memory_limit
from localbatch.server import create_app
from localbatch.store import Store

if TYPE_CHECKING:
    from containers import Containers
    from typing_extensions import Self

QUEUE = "bed"


class Batch:
    """Runs jobs from entry to exit, each attempt as a container called `JOB_NAME.JOB_ID.ATTEMPT`."""

    def __init__(self, containers: Containers) -> None:
        self.containers = containers
        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        self._store = Store(queue_name=QUEUE)
        config = uvicorn.Config(create_app(self._store, self), host="127.0.0.1", port=port, log_level="warning")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        while not self._server.started:
            time.sleep(0.02)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(10)

    # What localbatch asks of who runs its jobs

    def submit(self, job: dict[str, Any]) -> None:
        """Run a job, its retries too; its status is in the store."""
        threading.Thread(target=self._run, args=(job,), daemon=True).start()

    def terminate(self, job_id: str, reason: str) -> None:
        """SIGTERM, and SIGKILL half a minute later, as the agent of ECS does."""
        (job,) = self._store.get_jobs(job_ids=[job_id])
        self._store.update_job(job_id, statusReason=reason, terminated=True)
        prefix = f"{job['jobName']}.{job_id}."
        self.containers.kill(prefix, "TERM")
        threading.Timer(30, self.containers.kill, (prefix,)).start()

    def _run(self, job: dict[str, Any]) -> None:
        definition = self._store.get_job_definition_by_arn(job["jobDefinition"])["containerProperties"]
        overrides = job["containerOverrides"]
        environment = {each["name"]: each["value"] for each in overrides.get("environment", [])}
        required = {each["type"]: each["value"] for each in overrides.get("resourceRequirements", [])}
        command = overrides.get("command") or definition["command"]
        attempts = job["retryStrategy"].get("attempts", 1)
        self._store.update_job(job["jobId"], status="RUNNING", startedAt=_now())
        code = 0
        for attempt in range(1, attempts + 1):
            name = f"{job['jobName']}.{job['jobId']}.{attempt}"
            environment |= {
                "AWS_BATCH_JOB_ID": job["jobId"],
                "AWS_BATCH_JOB_ATTEMPT": str(attempt),
                "AWS_BATCH_CE_NAME": "bed",
                "AWS_BATCH_JQ_NAME": QUEUE,
                "AWS_EXECUTION_ENV": "AWS_ECS_EC2",
                "ECS_CONTAINER_METADATA_URI_V4": f"{self.url}/metadata/{job['jobId']}",
            }
            limit = memory_limit(int(required["MEMORY"]) << 20)
            code = self.containers.wait(name, self.containers.start(name, command, environment, *limit)).code
            if not code or job.get("terminated"):
                break
        status = "FAILED" if code else "SUCCEEDED"
        reason = f"Essential container in task exited: {code}"
        self._store.update_job(job["jobId"], status=status, statusReason=reason, exitCode=code, stoppedAt=_now())


def _now() -> int:
    return int(time.time() * 1000)
