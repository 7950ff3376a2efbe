"""Shards and nodes: which shard is asked, who has it, and how it changes hands."""
