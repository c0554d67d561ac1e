"""What user code gets from the OpenTelemetry API inside an attempt, where nobody set a provider.

Two layers. `tracer_provider`, `meter_provider` and `logger_provider` depend on the API alone: they return proxies, as
the API itself does while no provider is set, and give way to a provider that user code sets, at any time. `sdk_spans`,
`sdk_metrics` and `sdk_logs` depend on the SDK, which is imported at the first span, measurement or record, and append
to the attempt's journal. `task/import_hook.py` installs the former when user code imports the API.
"""
