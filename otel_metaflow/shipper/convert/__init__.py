"""Records of the journal as what OpenTelemetry exporters take."""
