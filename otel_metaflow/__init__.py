"""OpenTelemetry for Metaflow: a task appends to a journal, a separate process ships it.

Importing this package costs nothing: it pulls in neither OpenTelemetry nor Metaflow.
"""

from otel_metaflow.core.version import __version__

__all__ = ["__version__"]
