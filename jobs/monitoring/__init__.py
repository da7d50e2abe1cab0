"""What Prometheus is told: every metric by name, while a model trains and when a stage ends."""
