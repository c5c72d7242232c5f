"""A process kept alive that computes only when it is told to.

So configurations that need a process each, for their memory or their import, can still
be measured in turns.
"""

import multiprocessing
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

from benchmarks import measure


class Worker:
    """Calls `make(**settings)()` in a process of its own, each time it is called.

    Use it in a `with`; `make` is a function of a module, and runs there once.
    """

    def __init__(self, make: Callable[..., Callable[[], Any]], **settings: Any):
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, make, settings), daemon=True
        )
        self._process.start()
        theirs.close()
        self.made = self._answer()
        """Memory after `make`, see `measure.memory`."""

    def __call__(self) -> Any:
        """One call; what it returns must pickle."""
        self._pipe.send("call")
        return self._answer()

    def memory(self) -> dict[str, int | None]:
        """The process's memory now, see `measure.memory`."""
        self._pipe.send("memory")
        return self._answer()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pipe.close()
        self._process.join(10)
        self._process.kill()

    def _answer(self) -> Any:
        failed, answer = self._pipe.recv()
        if failed:
            raise RuntimeError(f"in the worker:\n{answer}")
        return answer


def _serve(
    pipe: Connection,
    make: Callable[..., Callable[[], Any]],
    settings: dict[str, Any],
) -> None:
    try:
        call = make(**settings)
        pipe.send((False, measure.memory()))
        while True:
            wanted = pipe.recv()
            pipe.send((False, call() if wanted == "call" else measure.memory()))
    except EOFError:  # the parent has closed its end: done
        pass
    except Exception:
        pipe.send((True, traceback.format_exc()))
