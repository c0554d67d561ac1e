"""For tests of flows: run one, and look at the telemetry that it makes.

    from otel_metaflow.testing import run

    def test_the_tree_of_my_flow():
        telemetry = run("examples/hello.py")
        assert telemetry.exit_code == 0
        assert "  greet success < start" in telemetry.tree().splitlines()

The flow runs as its user would run it, in a process of its own, with `--with otel`; nothing is sent anywhere.
`deterministic` numbers what differs from run to run: ids and times. Needs no test framework; for pytest there is the
fixture `otel_run`, by `pytest_plugins = ["otel_metaflow.testing.pytest_plugin"]`. It is no entry point, as every pytest
of whoever has this package installed would load it.
"""

from otel_metaflow.testing.deterministic import deterministic
from otel_metaflow.testing.flows import run
from otel_metaflow.testing.telemetry import Telemetry

__all__ = ["Telemetry", "deterministic", "run"]
