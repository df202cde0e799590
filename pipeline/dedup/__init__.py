"""Exact duplicates in two passes: signatures of each shard, then a search over all of them; the first id wins."""
