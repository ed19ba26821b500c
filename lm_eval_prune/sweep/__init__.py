"""Mask sweeps: a grid described once, its cells computed once, results on disk."""
