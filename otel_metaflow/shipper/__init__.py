"""Delivers journals: the only package that imports the OpenTelemetry SDK and its exporters."""
