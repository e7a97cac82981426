"""What both ends of a gRPC connection share: limits, channel options and the way of errors (`rpc`), channels
(`channels`), TLS (`tls`), request ids (`requests`) and spans (`tracing`)."""
