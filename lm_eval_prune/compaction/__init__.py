"""Masks -> smaller models: of a model in memory (memory.py), of a checkpoint shard by shard (checkpoint.py)."""
