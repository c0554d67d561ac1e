"""Registers `@otel` with Metaflow (metaflow/extension_support/plugins.py reads this list).

An error here would switch off the plugins of every installed extension, so it holds data only.
"""

STEP_DECORATORS_DESC = [("otel", ".otel_decorator.OtelDecorator")]
