"""How records leave: the official OTLP exporters, files."""
