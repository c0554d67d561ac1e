"""Export telemetry: through the official OTLP exporters, or OTLP over HTTP by the standard library."""
