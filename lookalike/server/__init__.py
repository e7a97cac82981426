"""The runtime that every server process shares: config, gRPC server, interceptor, admission control, health,
batching, background tasks, process life, connections to peers, security and observability."""
