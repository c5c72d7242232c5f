"""`jsplit pack`: folders of pictures as a data set, one `.npz`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import tyro

from jsplit.cli import parsing
from jsplit.cli.terminal import remark, say
from jsplit.core.option import MOST, Option
from jsplit.data.picture_set import Asked, PictureSet, make_picture_set
from jsplit.errors import InputError
from jsplit.experiment import workdir
from jsplit.experiment.config import check_ranges
from jsplit.experiment.quantities import counted
from jsplit.runtime import atomic

DESCRIPTION = """\
Makes a data set, the file OUT, of the pictures in FOLDER, which holds a folder
of them for each class: FOLDER/cat/1.jpg is a cat. All become images of one size,
as those that jsplit predict reads, and a part of each class is held out for the
test. Train on it by jsplit run --dataset OUT, or as one client of several by
jsplit join --own-data --dataset OUT.
"""


_MOST_LINES = 40
"""Classes that are told of one by one."""


@dataclass(frozen=True)
class PackCommand:
    """`jsplit pack`."""

    GROUP = "pack"

    folder: Annotated[
        tyro.conf.Positional[str],
        Option("Folder with a folder of pictures for each class.", "FOLDER"),
    ]
    out: Annotated[
        tyro.conf.Positional[str], Option("File to write, a new .npz.", "OUT")
    ]
    classes: Annotated[
        tuple[str, ...],
        Option(
            "All classes in the order of their labels, also those without a picture "
            "here: clients that train together name the same. Where none is named, "
            "they are the folders' names, sorted.",
            "NAME",
        ),
    ] = ()
    image_size: Annotated[
        int, Option("Edge of the images in pixels.", least=4, most=1024)
    ] = 32
    channels: Annotated[
        int | None,
        Option(
            "Channels of the images, 1 (gray) or 3 (colour): clients that train "
            "together need the same. None: 3 if any picture is in colour.",
            least=1,
            most=3,
        ),
    ] = None
    test: Annotated[
        str | None,
        Option(
            "Folder with the pictures of the test, likewise by class. None: a share "
            "of those in FOLDER.",
            "FOLDER",
        ),
    ] = None
    test_share: Annotated[
        float | None,
        Option(
            "Share of each class that is held out for the test. None: 0.2, unless "
            "there is a --test.",
            above=0,
            below=1,
        ),
    ] = None
    group_until: Annotated[
        str | None,
        Option(
            "Pictures whose names begin alike up to this text, such as _ in "
            "anna_1.jpg and anna_2.jpg, are all held out or none of them. None: each "
            "is for itself.",
            "TEXT",
        ),
    ] = None
    seed: Annotated[
        int, Option("Of the draw of what is held out.", least=0, most=MOST)
    ] = 0
    skip_unreadable: Annotated[
        bool,
        Option("Files that are no pictures are left out and named, not refused."),
        tyro.conf.FlagCreatePairsOff,
    ] = False


def command(argv: Sequence[str], prog: str) -> int:
    """`jsplit pack`: writes the file; returns the exit code."""
    asked = parsing.parse(PackCommand("", ""), argv, prog, DESCRIPTION)
    if not asked.folder or not asked.out:
        raise InputError(f"{prog} needs a FOLDER and a file OUT; see --help")
    check_ranges(asked)
    out = workdir.path_of(asked.out, "OUT")
    if out.suffix.lower() != ".npz":
        raise InputError(f"OUT {out} does not end in .npz; call it so")
    if out.exists():
        raise InputError(f"OUT {out} exists; name a new file, or remove it")
    if not out.absolute().parent.is_dir():
        raise InputError(f"OUT {out} is in no folder that exists; name another")
    if asked.channels == 2:
        raise InputError("--channels is 2; give 1 for gray or 3 for colour")
    if asked.test is not None and asked.test_share is not None:
        raise InputError(
            f"--test-share {asked.test_share:g} and --test {asked.test} say two "
            "things; leave one of them out"
        )
    if asked.group_until == "":
        raise InputError(
            "--group-until is empty; give the text that ends what is alike, such as _"
        )
    if asked.test is not None and asked.group_until is not None:
        raise InputError(
            f"--group-until {asked.group_until} is for what is held out here, and "
            f"--test {asked.test} has the pictures of the test; leave one of them out"
        )
    if len(set(asked.classes)) < len(asked.classes):
        raise InputError("--classes names a class twice; name each once")
    made = make_picture_set(
        workdir.path_of(asked.folder, "FOLDER"),
        Asked(
            classes=asked.classes,
            edge=asked.image_size,
            channels=asked.channels,
            test=None if asked.test is None else workdir.path_of(asked.test, "--test"),
            test_share=0.2 if asked.test_share is None else asked.test_share,
            group_until=asked.group_until,
            seed=asked.seed,
            skip_unreadable=asked.skip_unreadable,
        ),
    )
    for note in made.notes:
        remark(note)
    with atomic.replacing(out) as file:
        np.savez(file, **made.arrays)  # type: ignore[arg-type]
    for line in _about(made):
        say(line)
    say(f"all of it is in {out}; train on it by jsplit run --dataset {out}")
    return 0


def _about(made: PictureSet) -> list[str]:
    """What the data set holds, in lines for people."""
    train, test = made.train_images, made.test_images
    shape = "x".join(map(str, train.shape[1:]))
    counts = [
        np.bincount(labels, minlength=len(made.class_names))
        for labels in (made.train_labels, made.test_labels)
    ]
    lines = [
        f"{counted(len(train), 'training image')} and "
        f"{counted(len(test), 'test image')} of {shape}, "
        f"{counted(len(made.class_names), 'class')}"
    ]
    for label, name in enumerate(made.class_names[:_MOST_LINES]):
        lines.append(f"  {label} {name}: {counts[0][label]} and {counts[1][label]}")
    more = len(made.class_names) - _MOST_LINES
    return [*lines, f"  and {more} more"] if more > 0 else lines
