"""Runs in the user's process: standard library only, no thread, no socket, no OpenTelemetry."""
