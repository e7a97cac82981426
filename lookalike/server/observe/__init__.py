"""How a server process is observed: metrics, logs and spans. `process` starts all three."""
