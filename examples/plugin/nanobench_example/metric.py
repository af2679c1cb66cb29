"""The share of the KV cache in the memory of cache and weights."""

from nanobench.results.metrics.metric import NEITHER, RATIO, Metric


def cache_share(cell):
    cache_bytes, weight_bytes = cell.largest("kv_cache_bytes"), cell.largest("weight_bytes")
    if not cache_bytes or not weight_bytes:
        return None
    return cache_bytes / (cache_bytes + weight_bytes)


CACHE_SHARE = Metric("cache_share", RATIO, NEITHER, "kv_cache_bytes / (kv_cache_bytes + weight_bytes)", cache_share)
