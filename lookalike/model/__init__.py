"""The domain: records, code spaces, filters, feature vectors and errors, as plain data with checks.

Imports no other package of Lookalike, no grpc and no generated messages."""
