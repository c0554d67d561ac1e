"""The providers that user code gets from the OpenTelemetry API inside an attempt, unless it sets its own.

There are two layers. `tracer_provider`, `meter_provider` and `logger_provider` depend only on the API: they return
proxies, as the API itself does while no provider is set, and are replaced when user code sets a provider, at any time.
`sdk_spans`, `sdk_metrics` and `sdk_logs` depend on the SDK, which is imported at the first span, measurement or record,
and append to the attempt's journal. `task/import_hook.py` installs the former when user code imports the API.
"""
