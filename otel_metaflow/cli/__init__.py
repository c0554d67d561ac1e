"""`otel-metaflow`: one module a command."""
