"""The runtime that every server process shares: its config, gRPC server, interceptor, admission control, health,
batching, connections to peers, security and observability."""
