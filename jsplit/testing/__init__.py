"""Helpers that tests and benchmarks share: networked runs of the product itself."""

from jsplit.testing.compilation import compile_once
from jsplit.testing.network import (
    TINY_RUN,
    hello_of,
    make_clients,
    result_of,
    run_in_process,
    waiting_server,
)
from jsplit.testing.processes import (
    NetworkProcesses,
    free_port,
    run_in_processes,
    words_for,
)

__all__ = [
    "TINY_RUN",
    "NetworkProcesses",
    "compile_once",
    "free_port",
    "hello_of",
    "make_clients",
    "result_of",
    "run_in_process",
    "run_in_processes",
    "waiting_server",
    "words_for",
]
