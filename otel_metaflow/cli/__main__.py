"""`python -m otel_metaflow.cli` is `otel-metaflow`."""

from otel_metaflow.cli.main import main

main(prog_name="otel-metaflow")
