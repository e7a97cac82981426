"""What both ends of a gRPC connection share: limits, channel options and error translation (`rpc`), channels
(`channels`), TLS (`tls`), retries (`retry`), request ids (`requests`) and spans (`tracing`)."""
