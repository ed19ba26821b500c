"""Spoilt files for every reader of files: nothing but our own errors, little time and memory, nothing written outside.

    python -m tests.fuzz --seed 0 --inputs 100000               all readers, as many inputs each as their share
    python -m tests.fuzz --reader results --only 4711 --show    one input again, and what it is

A reader is a module in `readers/` (see `readers/__init__.py`); `mutation.py` spoils good inputs, `guard.py` watches.
"""
