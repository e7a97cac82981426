"""Measures the shard's search on this machine, beside the memory's own speed and, where it is installed, FAISS."""
