"""OpenTelemetry for Metaflow: a task appends to a journal, a separate process ships it.

Importing this package costs nothing: it pulls in neither OpenTelemetry nor Metaflow.
"""

__version__ = "0.1.0"
