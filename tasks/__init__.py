"""Harness task definitions (YAML), one folder per suite; harness/registration.py tells the harness of this folder."""
