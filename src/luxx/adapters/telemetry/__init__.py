"""What an operator sees: logs by structlog, metrics by Prometheus, traces by OpenTelemetry."""
