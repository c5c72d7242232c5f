"""Where a run keeps plain split learning, which it is compared with."""

from pathlib import Path

from jsplit.experiment.workdir import RunFolder

COMPARE = "compare"
"""The folder, in that of a run, of what belongs to its comparison."""


def plain_folder(path: Path) -> RunFolder:
    """The folder of the plain run beside the run in `path`, made or not.

    Example:
        >>> str(plain_folder(Path("runs/first")).path)
        'runs/first/compare/plain'
    """
    return RunFolder(path / COMPARE / "plain")
