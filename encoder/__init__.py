"""Computes codes of images, as a service and in batch jobs.

Images are decoded (`images`), a network computes features up to a layer (`backbones`, `fusion`, `features`), and
the features are hashed (`hashing`). Together these steps are an encoder (`model`), described by `spec`. Ray Serve
scales it (`deployment`) behind a gRPC server (`front`, `server`). An encoder is started as a process
(`python -m encoder`), or as an application of an existing Ray cluster (`application`). `ingest` is the batch job.
`preflight` checks an encoder before Ray starts. The package `lab` fits, learns and evaluates hashes. Only the
packages `encoder` and `lab` import torch and Ray."""

import os

# Ray reads these when it is first imported, and its workers inherit them, so they are set before any module of
# this package can import Ray. Values from the environment take precedence.
for _name, _value in {
    # No usage statistics, no access to the cluster without its token.
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    # Ray forks its processes; gRPC's fork handlers are for programs that use gRPC in both parent and child.
    "GRPC_ENABLE_FORK_SUPPORT": "0",
    # A busy machine may need longer than Ray's default of 30 s.
    "RAY_gcs_server_port_wait_time_s": "120",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # By default glibc returns large blocks to the kernel at once, and torch spends half its time on page faults
    # (measured at batches of 32: 1.8 to 2.9 times slower).
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
    "MALLOC_TOP_PAD_": "268435456",
}.items():
    os.environ.setdefault(_name, _value)
