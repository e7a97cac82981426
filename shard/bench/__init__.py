"""Measures the shard's search on this machine against the memory bandwidth and, if installed, FAISS."""
