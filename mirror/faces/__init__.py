"""Measuring faces: model packs, the engine, head pose, the cache, and the metrics."""
