"""Images to codes: decoding (`images`), networks up to a layer (`backbones`), both on a device (`features`), and
the hash (`hashing`; `fitting` and `training` make better ones), together one encoder (`model`), scaled by Ray
Serve (`deployment`) behind our own gRPC front (`server`). On top of it the batch job (`ingest`), labelled sets
(`datasets`) and what they show (`evaluation`). The only place that imports Ray and torch."""

import os

# Ray reads these when it is first imported and its workers inherit them, so they are set before any module
# of this package can import it. What the environment says already stays.
for _name, _value in {
    # Closed: no usage statistics, no use of the cluster without its token.
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    # Ray forks its processes off this one; gRPC's fork handlers are for programs that use it in both.
    "GRPC_ENABLE_FORK_SUPPORT": "0",
    # A busy machine may need longer than Ray's half minute.
    "RAY_gcs_server_port_wait_time_s": "120",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # glibc hands large blocks back to the kernel at once, and torch then spends half its time on page faults
    # (measured at batches of 32: 1.8 to 2.9 times slower).
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
    "MALLOC_TOP_PAD_": "268435456",
}.items():
    os.environ.setdefault(_name, _value)
