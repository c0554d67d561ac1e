#!/bin/sh
# Runs a command beside the bundled collector, and stops the collector when the command has ended.
#
#     DD_API_KEY=... DD_SITE=datadoghq.eu examples/with_collector.sh .venv/bin/python examples/fanout.py run
#     SPLUNK_HEC_URL=... SPLUNK_HEC_TOKEN=... SPLUNK_INDEX=... SPLUNK_METRICS_INDEX=... examples/with_collector.sh ...
#
# Without a vendor's variables the collector prints a sample of what arrives.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
port=${COLLECTOR_OTLP_HTTP_PORT:-4318}
health=http://localhost:${COLLECTOR_HEALTH_PORT:-13133}

make --silent --directory="$root" collector
COLLECTOR_QUEUE_DIR=${COLLECTOR_QUEUE_DIR:-$root/collector/dist/queue} \
  "$root/collector/dist/otelcol-metaflow" --config "$root/collector/config/config.yaml" &
collector=$!
trap 'kill $collector 2>/dev/null; wait $collector || true' EXIT

until curl --silent --fail --output /dev/null "$health"; do
  kill -0 $collector  # it says itself why it does not start
  sleep 0.1
done

# A run is to wait until its telemetry is delivered: the collector ends with it.
OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:$port OTEL_METAFLOW_FLUSH_TIMEOUT=60 "$@"
