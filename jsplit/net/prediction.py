"""Prediction over a network, by two halves that trained over one.

The client sends activations, coded as in the run, and gets logits; images and labels
stay with it, and the server's half with the server. Nothing is kept of either.
"""

import json
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float, UInt8

from jsplit import data
from jsplit.codecs import identity
from jsplit.core.metrics import make_held_out
from jsplit.core.simulation import TEST_BATCH
from jsplit.core.state import SideState
from jsplit.errors import InputError, Refusal, RunError
from jsplit.experiment.at_cut import codecs_of
from jsplit.experiment.quantities import counted
from jsplit.experiment.trained import TrainedModel
from jsplit.experiment.workdir import RunFolder
from jsplit.net import server_events
from jsplit.net.channel import Channel, ConnectionLost
from jsplit.net.client_store import RUN
from jsplit.net.events import Event
from jsplit.net.membership import MEMBERS
from jsplit.net.tensors import make_tensor_reader, on_host, padded, tensor_message
from jsplit.wire.messages import (
    NAME_BYTES,
    VERSION,
    Goodbye,
    Message,
    Place,
    PredictionHello,
    Tensor,
    read_message,
    write_message,
)

IDLE = 60.0
"""Seconds without a message after which the server gives a connection up."""

PATIENCE = 120.0
"""Seconds that a client waits for an answer; the first one may have to compile."""


def run_name(folder: Path) -> bytes:
    """The name of the networked run that a server's or a client's folder belongs to.

    Raises:
        InputError: if it belongs to none.
    """
    if not ((folder / MEMBERS).is_file() or (folder / RUN).is_file()):
        raise InputError(_unnamed(folder))
    try:
        if (folder / MEMBERS).is_file():
            record = json.loads((folder / MEMBERS).read_text(encoding="utf-8"))
            name = bytes.fromhex(record["run"])
        else:
            name = (folder / RUN).read_bytes()
        if len(name) != NAME_BYTES:
            raise ValueError(f"a name of {len(name)} bytes")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder} is no folder of a networked run's server or client ({error}); "
            "name the --workdir of jsplit serve or jsplit join"
        ) from error
    return name


def _unnamed(folder: Path) -> str:
    """What a folder is that names no networked run, and what to do instead."""
    kept = RunFolder(folder)
    if kept.config.is_file() and not kept.traffic.is_file():
        return (
            f"{folder} is of a run on one machine, so it holds both halves and needs "
            f"no server: use jsplit predict {folder} with the images"
        )
    return (
        f"{folder} is no folder of a networked run's server or client (it holds "
        f"neither {MEMBERS} nor {RUN}); name the --workdir of jsplit serve or jsplit "
        "join"
    )


class PredictionServer:
    """Answers clients' activations with logits.

    Args:
        model: with the server's half.
        run: the name of the run that it was trained in.
        notify: takes a line of text for people.
    """

    def __init__(
        self, model: TrainedModel, run: bytes, notify: Callable[[str], None]
    ) -> None:
        config, half = model.description.config, model.half("server")
        shape = model.smashed.shape[1:]
        side = SideState(half.variables, ())
        evaluate = model.steps.server_evaluate
        self._logits = lambda packet: np.asarray(evaluate(side, packet))
        self._read = make_tensor_reader(codecs_of(config, shape)[0], shape)
        self._run = run
        self._notify = notify
        self._computing = threading.Lock()

    def handle_connection(self, channel: Channel, identity: int | None) -> None:
        """Serves one connection until it ends.

        Args:
            channel: to whoever connected.
            identity: the client that its certificate names; None where there are no
                certificates.
        """
        whom = channel.remote if identity is None else f"client {identity}"
        examples = 0
        try:
            hello = read_message(channel.receive(IDLE), (PredictionHello,))
            if hello.run != self._run:
                raise Refusal(
                    "OTHER_RUN",
                    "the client's half was trained in another run than the server's",
                )
            while True:
                message = read_message(channel.receive(IDLE))
                if isinstance(message, Goodbye):
                    channel.close()
                    break
                if not isinstance(message, Tensor):
                    raise Refusal("UNEXPECTED", f"{type(message).__name__}, not Tensor")
                channel.send(write_message(self._answer(message)))
                examples += message.rows
        except Refusal as refusal:
            self._notify(
                server_events.refused(
                    whom, refusal, client=identity, remote=channel.remote
                )
            )
            channel.close(refusal)
        except (ConnectionLost, TimeoutError):
            channel.close()
        except Exception as error:  # A fault of ours must not end the server.
            self._notify(server_events.fault(whom, channel.remote, error))
            channel.close(Refusal("INTERNAL", "a fault of the server's; see its log"))
        if examples:
            self._notify(
                Event(
                    f"predicted {counted(examples, 'example')} for {whom}",
                    "predicted",
                    examples=examples,
                    client=identity,
                    remote=channel.remote,
                )
            )

    def _answer(self, message: Tensor) -> Tensor:
        if not 1 <= message.rows <= TEST_BATCH:
            raise Refusal(
                "SHAPE", f"1 to {TEST_BATCH} examples at a time, got {message.rows}"
            )
        with self._computing:
            packet = self._read(message, message.rows)
            # Few lengths, because each one is compiled.
            length = min(TEST_BATCH, 1 << (message.rows - 1).bit_length())
            logits = self._logits(padded(packet, length))
        return _logits_message(logits, message.place, message.rows)


def _logits_message(
    logits: Float[np.ndarray, "n classes"], place: Place, rows: int
) -> Tensor:
    packet = on_host(logits, np.zeros(0, np.uint8))
    return tensor_message(identity(), packet, place, rows)[0]


def _send(channel: Channel, message: Message) -> None:
    try:
        channel.send(write_message(message))
    except ConnectionLost:
        # Why the server closed it is for the reader to hear.
        channel.receive(1.0)
        raise


def remote_logits(
    model: TrainedModel,
    run: bytes,
    images: UInt8[np.ndarray, "n h w c"],
    connect: Callable[[], AbstractContextManager[Channel]],
) -> Float[np.ndarray, "n classes"]:
    """The server's logits of images that stay here.

    Args:
        model: with the client's half.
        run: the name of the run that it was trained in.
        images: of the model's shape.
        connect: opens a channel to the server.

    Raises:
        InputError: if the server refuses.
        RunError: if it cannot be reached, or does not answer.
    """
    config, half = model.description.config, model.half("client")
    side = SideState(half.variables, ())
    codec, _ = codecs_of(config, model.smashed.shape[1:])
    mean, deviation = model.description.mean, model.description.deviation
    evaluate = jax.jit(
        lambda images, mask: model.steps.client_evaluate(
            side, data.preprocess(images, mean, deviation), mask
        )
    )
    read = make_tensor_reader(identity(), (model.description.num_classes,))
    batches = make_held_out(images, np.zeros(len(images)), TEST_BATCH)
    found = []
    try:
        with connect() as channel:
            _send(channel, PredictionHello(VERSION, run))
            for number, mask in enumerate(batches.mask):
                rows = int(mask.sum())
                packet = evaluate(batches.examples[number], mask)
                asked, _ = tensor_message(codec, packet, Place(0, 0, number), rows)
                _send(channel, asked)
                answer = read_message(channel.receive(PATIENCE), (Tensor,))
                if answer.place != asked.place:
                    raise Refusal("SEQUENCE", f"an answer to {answer.place}")
                found.append(np.asarray(read(answer, rows).payload))
            _send(channel, Goodbye())
    except Refusal as refusal:
        remedy = ""
        if refusal.name == "UNEXPECTED":
            remedy = "; the server there must be one of jsplit serve --predict"
        raise InputError(f"the server does not predict: {refusal}{remedy}") from refusal
    except (ConnectionLost, TimeoutError) as error:
        raise RunError(
            f"no prediction from the server ({error or f'silent for {PATIENCE:g} s'}); "
            "is jsplit serve --predict running there?"
        ) from error
    return np.concatenate(found)
