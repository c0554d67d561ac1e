"""Converts records of the journal to telemetry."""
