"""What Prometheus is told of a coordinator; the extra `metrics` serves it."""
