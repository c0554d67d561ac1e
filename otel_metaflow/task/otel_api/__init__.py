"""What user code gets from the OpenTelemetry API inside an attempt, where nobody set a provider.

Two layers. `traces`, `metrics` and `logs` know the API alone: they hand out proxies, as the API itself
does while no provider is set, and give way to a provider that user code sets, at any time. `spans`,
`points` and `records` own the SDK, which is loaded at the first span, measurement or record, and append
what it makes to the attempt's journal.
"""
