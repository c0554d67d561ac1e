"""Delivers journals: the only place that imports the OpenTelemetry SDK and its exporters."""
