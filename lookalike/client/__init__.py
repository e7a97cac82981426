"""The SDK: `Client` and `AsyncClient`, and how they choose a coordinator, retry and stream."""
