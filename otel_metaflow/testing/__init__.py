"""For tests of flows: run a flow and check the telemetry that it records.

    from otel_metaflow.testing import run

    def test_the_tree_of_my_flow():
        telemetry = run("examples/hello.py")
        assert telemetry.exit_code == 0
        assert "  greet success < start" in telemetry.tree().splitlines()

The flow runs as a user would run it, in its own process, with `--with otel`; nothing is exported. `deterministic` makes
ids and times equal in every run. No test framework is needed; for pytest there is the fixture `otel_run`, enabled by
`pytest_plugins = ["otel_metaflow.testing.pytest_plugin"]`. It is not an entry point, which every pytest run in an
environment with this package would load.
"""

from otel_metaflow.testing.deterministic import deterministic
from otel_metaflow.testing.flows import run
from otel_metaflow.testing.telemetry import Telemetry

__all__ = ["Telemetry", "deterministic", "run"]
