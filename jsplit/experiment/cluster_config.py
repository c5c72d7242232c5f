"""Which of several processes this one is."""

from dataclasses import dataclass
from typing import Annotated

from jsplit.core.option import MOST, Option


@dataclass(frozen=True)
class ClusterConfig:
    """Which of several processes this is; never kept with the run."""

    GROUP = "system"

    coordinator: Annotated[
        str | None,
        Option(
            "The address of process 0 of several, or auto, as JAX detects the cluster.",
            "HOST:PORT|auto",
        ),
    ] = None
    process_id: Annotated[
        int | None,
        Option("The number of this process. Process 0 leads, writes and prints."),
    ] = None
    num_processes: Annotated[
        int | None, Option("Number of processes.", least=1, most=MOST)
    ] = None
    coordinator_timeout: Annotated[
        int,
        Option(
            "Number of seconds to wait for the other processes at the start.",
            least=1,
            most=MOST,
        ),
    ] = 60
