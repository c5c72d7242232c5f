"""`jsplit predict`: what a trained run says of images."""

import csv
import io
import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from jsplit.cli import parsing
from jsplit.cli.terminal import remark
from jsplit.core.option import Option
from jsplit.data.images import Images, load_images
from jsplit.errors import InputError
from jsplit.experiment import workdir
from jsplit.experiment.config import flag
from jsplit.experiment.description import ModelDescription
from jsplit.experiment.quantities import counted
from jsplit.experiment.trained import (
    SIDES,
    Predictions,
    TrainedModel,
    load_run,
    predictions_of,
)
from jsplit.net.config import PING_TIMEOUT
from jsplit.runtime import atomic, device

DESCRIPTION = """\
Predicts the classes of images with what the run in RUN has trained. IMAGES are picture
files or folders of them, of any size, or one .npz with `images` (and `labels`, if they
are known). Of a folder that holds a folder of pictures for each class, named by the
class or by its number, the labels are known. Where they are, the accuracy is said. The
predictions go to standard output, what is said about them to standard error.
"""

FORMATS = ("csv", "json")


@dataclass(frozen=True)
class PredictCommand:
    """`jsplit predict`."""

    GROUP = "predict"

    run: Annotated[tyro.conf.Positional[str], Option("Folder of the run.", "RUN")]
    images: Annotated[
        tyro.conf.Positional[tuple[str, ...]],
        Option(
            "Picture files, folders of them or of a folder for each class, or one "
            ".npz.",
            "IMAGES",
        ),
    ]
    format: Annotated[
        str | None,
        Option(
            "The form of the predictions. None: json for an --out that ends so, "
            "else csv.",
            choices=FORMATS,
        ),
    ] = None
    out: Annotated[
        str | None,
        Option("The file for the predictions. None: standard output.", "FILE"),
    ] = None
    server: Annotated[
        str | None,
        Option(
            "The address of jsplit serve --predict, which has the server's half: the "
            "images stay here, and RUN is the client's folder.",
            "HOST:PORT",
            "network",
        ),
    ] = None
    certs: Annotated[
        str | None,
        Option(
            "The folder with this client's certificates, for --server.",
            "FOLDER",
            "network",
        ),
    ] = None
    insecure: Annotated[
        tyro.conf.UseCounterAction[int],
        Option(
            "The --server is reached without certificates: given once, on loopback "
            "alone, given twice, at any address.",
            group="network",
        ),
    ] = 0
    ping_timeout: Annotated[
        float,
        Option(
            "Seconds within which the --server must answer a ping, as that of jsplit "
            "join.",
            group="network",
        ),
    ] = PING_TIMEOUT
    coded: Annotated[
        bool,
        Option(
            "Activations pass the run's codec at the cut, in batches of 500, as in "
            "the run's own tests, and always with --server. Probabilities then differ "
            "a little, because the codec rounds."
        ),
        tyro.conf.FlagCreatePairsOff,
    ] = False
    device: Annotated[str, parsing.DEVICE] = "auto"


def command(argv: Sequence[str], prog: str) -> int:
    """`jsplit predict`: writes a prediction of each image; returns the exit code."""
    asked = parsing.parse(PredictCommand("", ()), argv, prog, DESCRIPTION)
    if not asked.run or not asked.images:
        raise InputError(f"{prog} needs a RUN and IMAGES; see --help")
    out = None if asked.out is None else workdir.path_of(asked.out, "--out")
    if out is not None and (out.is_dir() or not out.absolute().parent.is_dir()):
        raise InputError(f"--out {out} is no file in a folder that exists; name one")
    if asked.server is None:
        _check_alone(asked)
    connect = None if asked.server is None else _connector(asked, asked.server)
    device.choose(asked.device)
    model = load_run(asked.run, remark)
    # What the folder lacks is said before anything is of the images.
    for side in SIDES if connect is None else ("client",):
        model.half(side)
    description = model.description
    images = load_images(
        [Path(os.path.expanduser(name)) for name in asked.images],
        description.image_shape,
        description.names,
        named=description.class_names is not None,
    )
    for note in images.notes:
        remark(note)
    _say_progress(model)
    if connect is None:
        predictions = model.predict(images.pixels, coded=asked.coded)
    else:
        from jsplit.net.prediction import remote_logits, run_name

        name, pixels = run_name(model.folder), model.checked(images.pixels)
        predictions = predictions_of(remote_logits(model, name, pixels, connect))
    by_name = "json" if out is not None and out.suffix.lower() == ".json" else "csv"
    as_text = as_json if (asked.format or by_name) == "json" else as_csv
    text = as_text(description, images, predictions)
    if out is None:
        sys.stdout.write(text)
        sys.stdout.flush()
    else:
        try:
            atomic.write_text(out, text)
        except OSError as error:
            raise InputError(f"--out {out}: {error.strerror}; name another") from error
    right = _right(images, predictions)
    if right is not None:
        count = len(images.names)
        remark(f"accuracy {right / count:.2%}: {right} of {counted(count, 'image')}")
    if out is not None:
        remark(f"{counted(len(images.names), 'prediction')} in {out}")
    return 0


def _check_alone(asked: PredictCommand) -> None:
    """Refuses what would seem to ask a server, where none is named."""
    usual = PredictCommand("", ())
    for name in ("certs", "insecure", "ping_timeout"):
        if getattr(asked, name) != getattr(usual, name):
            raise InputError(
                f"{flag(name)} is for --server, and none is named; add --server "
                f"HOST:PORT, or leave {flag(name)} out"
            )


def _connector(
    asked: PredictCommand, server: str
) -> Callable[[], AbstractContextManager[Any]]:
    # Only here, so that predicting on one machine needs no gRPC.
    from jsplit.net import certificates
    from jsplit.net.config import MIB, JoinConfig, check_network
    from jsplit.net.grpc_channel import connect

    link = JoinConfig(
        server=server,
        certs=asked.certs,
        insecure=asked.insecure,
        ping_timeout=asked.ping_timeout,
    )
    check_network(link)
    credentials = certificates.read_credentials(
        asked.certs, server=False, notify=remark
    )
    limit = link.message_limit * MIB
    return lambda: connect(server, credentials, limit, link.ping_timeout)


def as_csv(
    description: ModelDescription, images: Images, predictions: Predictions
) -> str:
    """The predictions as CSV: a head, and a line for each image.

    Example:
        >>> from jsplit.experiment.run_config import RunConfig
        >>> about = ModelDescription(
        ...     RunConfig(), (1, 1, 1), 2, ("cat", "dog"), (0.5,), (0.2,)
        ... )
        >>> pixels = np.zeros((1, 1, 1, 1), np.uint8)
        >>> images = Images(("a.png",), pixels, np.array([0]), ())
        >>> said = Predictions(np.array([1]), np.array([[0.25, 0.75]], np.float32))
        >>> print(as_csv(about, images, said), end="")
        image,label,class,probability,true_label,p_cat,p_dog
        a.png,1,dog,0.75,0,0.25,0.75
    """
    labels = images.labels
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = description.names
    known = ["true_label"] * (labels is not None)
    head = ["image", "label", "class", "probability", *known]
    writer.writerow([*head, *(f"p_{name}" for name in names)])
    for place, name in enumerate(images.names):
        label = int(predictions.labels[place])
        row = [f"{number:.6g}" for number in predictions.probabilities[place]]
        truth = [] if labels is None else [int(labels[place])]
        writer.writerow([name, label, names[label], row[label], *truth, *row])
    return text.getvalue()


def as_json(
    description: ModelDescription, images: Images, predictions: Predictions
) -> str:
    """The predictions as JSON, with the accuracy where labels are known."""
    rows = []
    for place, name in enumerate(images.names):
        label, row = int(predictions.labels[place]), predictions.probabilities[place]
        said: dict[str, Any] = {
            "image": name,
            "label": label,
            "class": description.names[label],
            "probability": float(row[label]),
        }
        if images.labels is not None:
            said["true_label"] = int(images.labels[place])
        rows.append(said | {"probabilities": [float(number) for number in row]})
    names = description.class_names
    whole: dict[str, Any] = {
        "class_names": None if names is None else list(names),
        "predictions": rows,
    }
    right = _right(images, predictions)
    if right is not None:
        whole["accuracy"] = right / len(rows)
    return json.dumps(whole, indent=2, allow_nan=False) + "\n"


def _right(images: Images, predictions: Predictions) -> int | None:
    if images.labels is None:
        return None
    return int(np.sum(images.labels == predictions.labels))


def _say_progress(model: TrainedModel) -> None:
    planned = model.description.config.all_epochs
    if model.epochs < planned:
        remark(f"{model.folder} is not finished: epoch {model.epochs} of {planned}")
