"""Benchmarks: one command a question, `python -m benchmarks.NAME`; see README.md."""

import os

# PyTorch and other workers share the accelerator; JAX would take most of its memory at
# once. Before JAX starts, and for every process that follows.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
