"""The domain: what a record, a code space, a filter, a feature vector and an error are.

Plain data and its checks. Imports nothing else of Lookalike, and neither grpc nor a generated message."""
