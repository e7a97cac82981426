"""Owns how many files this process may open."""

from __future__ import annotations

import resource

# macOS refuses more.
_MAX_FILES = 10_240


def raise_file_limit() -> None:
    """Lets this process open as many files as the system permits: the default soft limit is often 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, _MAX_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
