"""Runs in the user's process: standard library only, no threads, no sockets, no OpenTelemetry."""
