"""Images and flows that are not as one would like them: tasks run as ever, and are recorded."""

from __future__ import annotations

import base64
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import kubernetes.client
import pytest
from bed import Argo, Bed, Kubernetes
from collectors import free_ports
from deaths import LINES, Arrived
from endpoint import Endpoint
from measured import Measured
from parts import UNPRIVILEGED
from running import eventually

from otel_metaflow.core import ids

on_kubernetes = pytest.mark.parametrize("bed", [Kubernetes], indirect=True, ids=["Kubernetes"])
on_argo = pytest.mark.parametrize("bed", [Argo], indirect=True, ids=["Argo"])

STATE = "success; not root, read-only, no home, no libraries; one step without `@otel`"
FLOW = f"""
    import importlib.util, os
    from metaflow import FlowSpec, current, kubernetes, otel, step

    class PodFlow(FlowSpec):
        def describe(self):
            print(f"line {{current.pathspec}}/0 1")
            print("uid", os.getuid(), flush=True)
            print("writable", [p for p in (os.path.expanduser("~"), "/var", "/tmp") if os.access(p, os.W_OK)])
            print("library", importlib.util.find_spec("opentelemetry") or importlib.util.find_spec("psutil"))

        @otel
        @kubernetes(
            memory=512,
            image="{UNPRIVILEGED}",
            use_tmpfs=True,
            tmpfs_path="/tmp",
            security_context={{"run_as_user": 1234, "read_only_root_filesystem": True}},
        )
        @step
        def start(self):
            self.describe()
            self.next(self.plain)

        @kubernetes(memory=512)
        @step
        def plain(self):
            self.next(self.end)

        @otel
        @kubernetes(memory=512)
        @step
        def end(self):
            self.describe()

    if __name__ == "__main__":
        PodFlow()
"""


ENDLESS = """
    import time
    from metaflow import FlowSpec, current, environment, kubernetes, step

    class PodFlow(FlowSpec):
        @environment(vars={"OTEL_METAFLOW_HOME": "/mnt/otel"})
        @kubernetes(memory=512, persistent_volume_claims={"journals": "/mnt/otel"})
        @step
        def start(self):
            for number in range(100_000):
                print(f"line {current.pathspec}/0 {number}")
                time.sleep(0.005)
            self.next(self.end)

        @kubernetes(memory=512)
        @step
        def end(self):
            pass

    if __name__ == "__main__":
        PodFlow()
"""

MENDED = """
    import os, pathlib
    from metaflow import FlowSpec, current, kubernetes, step

    mended = pathlib.Path("/mnt/outside/mended")

    class PodFlow(FlowSpec):
        @kubernetes(memory=512)
        @step
        def start(self):
            self.xs = [1, 2]
            self.next(self.work, foreach="xs")

        @kubernetes(memory=512, persistent_volume_claims={"outside": "/mnt/outside"})
        @step
        def work(self):
            print(f"line {current.pathspec}/0/{mended.exists()} 1")
            if self.input == 2 and not mended.exists():
                raise ValueError("shard 2 is damaged")
            self.next(self.join)

        @kubernetes(memory=512)
        @step
        def join(self, inputs):
            self.next(self.end)

        @kubernetes(memory=512)
        @step
        def end(self):
            pass

    if __name__ == "__main__":
        PodFlow()
"""

PARALLEL = """
    from metaflow import FlowSpec, current, kubernetes, parallel, step

    class PodFlow(FlowSpec):
        @kubernetes(memory=512)
        @step
        def start(self):
            self.next(self.work, num_parallel=3)

        @kubernetes(memory=512)
        @parallel
        @step
        def work(self):
            print(f"line {current.pathspec}/0/{current.parallel.node_index} 1")
            self.next(self.join)

        @kubernetes(memory=512)
        @step
        def join(self, inputs):
            self.next(self.end)

        @kubernetes(memory=512)
        @step
        def end(self):
            pass

    if __name__ == "__main__":
        PodFlow()
"""


@on_kubernetes
def test_a_container_that_may_write_nowhere_else_and_has_no_library_of_ours_is_recorded(
    bed: Bed, receiver: Endpoint, measured: Measured
) -> None:
    ended = bed.run(FLOW, env=bed.sends_to(receiver.port))
    assert ended.succeeded, ended.report
    ended.wait_delivered()
    (start,) = (text for name, text in bed.outputs.items() if "/start/" in text and "uid" in text)
    assert "uid 1234\n" in start
    assert "writable ['/tmp']\n" in start
    assert "library None\n" in start
    found = bed.arrived(receiver)
    assert (found.lost, found.twice, found.run_results()) == ([], [], ["success"])
    assert dict(found.results()) == {("start", "success"): 1, ("end", "success"): 1}
    measured.add(bed, STATE, found)


@on_argo
def test_headers_come_from_a_secret_of_the_cluster(bed: Argo, receiver: Endpoint) -> None:
    data = {"OTEL_EXPORTER_OTLP_HEADERS": base64.b64encode(b"x-key=hush").decode()}
    core = kubernetes.client.CoreV1Api(bed.cluster.client)
    core.create_namespaced_secret("default", {"metadata": {"name": "otel"}, "data": data})
    secrets = {"METAFLOW_ARGO_WORKFLOWS_KUBERNETES_SECRETS": f"{bed.SECRET},otel"}
    ended = bed.run(FLOW, env={**bed.sends_to(receiver.port), **secrets})
    assert ended.succeeded, ended.report
    assert bed.arrived(receiver).results()["end", "success"] == 1
    assert {headers.get("x-key") for _, headers in receiver.requests} == {"hush"}


@on_argo
def test_a_journal_on_a_volume_outlives_its_container(bed: Argo, measured: Measured) -> None:
    """All that was printed is delivered from there, by `otel-metaflow ship` beside it."""
    (port,) = free_ports(1)
    with ThreadPoolExecutor() as pool:
        running = pool.submit(bed.run, ENDLESS, "--with", "otel", env=bed.sends_to(port))
        victim = eventually(lambda: next((n for n, text in bed.outputs.items() if "/0 0\n" in text), None), 120)
        eventually(lambda: bed.outputs[victim].count("\n") > 2 * LINES)
        bed.containers.kill(victim)
        assert not running.result().succeeded
    with Endpoint(port=port) as receiver:
        home = {"OTEL_METAFLOW_HOME": str(bed.kubelet.claimed("journals"))}
        shipped = bed.place.cli("ship", "--all", env={**bed.sends_to(port), **home})
        assert shipped.returncode == 0, shipped.stdout + shipped.stderr
        found = bed.arrived(receiver)
    assert (found.lost, found.twice) == ([], [])
    measured.add(bed, "container killed at once; journals on a volume, the endpoint down until `ship`", found)


@on_argo
def test_a_workflow_that_goes_on_by_argo_retry_has_spans_of_their_own(
    bed: Argo, receiver: Endpoint, measured: Measured
) -> None:
    """Of what is made again under the same name; linked to the first ones, and in their trace."""
    env = bed.sends_to(receiver.port)
    assert not bed.run(MENDED, "--with", "otel", env=env).succeeded
    (bed.kubelet.claimed("outside") / "mended").touch()
    ended = bed.retry()
    assert ended.succeeded, ended.report
    found = bed.arrived(receiver)
    assert (found.lost, found.twice) == ([], [])
    steps = ["start", "work", "work", "join", "end"]
    assert found.results() == Counter([*((step, "success") for step in steps), ("work", "failure")])

    first, again = sorted(
        (each for each in found.attempts if each.path in failed_paths(found)),
        key=lambda each: each.span.start_time_unix_nano,
    )
    assert first.path == again.path
    uid = again.attributes["k8s.pod.uid"]
    assert uid != first.attributes["k8s.pod.uid"]
    assert again.span.span_id.hex() == ids.again_span_id(first.span.span_id.hex(), uid)
    assert first.span.span_id in [link.span_id for link in again.span.links]

    failure, success = sorted(found.runs, key=lambda span: span.end_time_unix_nano)
    assert found.run_results() == ["failure", "success"]
    (last,) = (each for each in found.attempts if each.span.name == "end")
    assert success.span_id.hex() == ids.again_span_id(failure.span_id.hex(), last.attributes["k8s.pod.uid"])
    assert success.parent_span_id == failure.span_id
    assert len({span.trace_id for span in found.spans}) == 1
    measured.add(bed, "exception, the run fails; then `argo retry`", found)


@on_argo
def test_each_node_of_a_parallel_step_has_a_span_and_its_lines(
    bed: Argo, receiver: Endpoint, measured: Measured
) -> None:
    """The control task and the workers of a JobSet export themselves, as any container."""
    ended = bed.run(PARALLEL, "--with", "otel", env=bed.sends_to(receiver.port))
    assert ended.succeeded, ended.report
    found = bed.arrived(receiver)
    assert (found.lost, found.twice, found.run_results()) == ([], [], ["success"])
    assert found.results() == Counter([(step, "success") for step in ("start", *["work"] * 3, "join", "end")])
    tasks = {each.attributes["metaflow.task.id"].partition("-")[0] for each in found.attempts if "-" in each.path}
    nodes = sorted(line.partition("/0/")[2] for line in found.lines)
    assert {"control", "worker"} <= tasks
    assert nodes == ["0 1", "1 1", "2 1"]
    assert bed.with_other_ids(ended, found) == []
    measured.add(bed, "success; a `@parallel` step on three nodes", found)


def failed_paths(found: Arrived) -> set[str]:
    """The attempts of which one span has failed."""
    return {each.path for each in found.attempts if each.attributes["metaflow.task.result"] == "failure"}
