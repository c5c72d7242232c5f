"""A networked run on the server's side, from the first hello to the summary."""

import logging
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jsplit.accounting.ledger import Ledger
from jsplit.core.metrics import Metrics
from jsplit.core.value_checks import check_states
from jsplit.errors import Refusal, RunError
from jsplit.experiment import checkpoint
from jsplit.experiment.config import RunConfig, agreement
from jsplit.experiment.description import ModelDescription, write_description
from jsplit.experiment.progress import Record
from jsplit.experiment.step_sizes import step_sizes_of
from jsplit.experiment.train import accounts, eta, needs_store
from jsplit.experiment.workdir import RunFolder
from jsplit.experiment.writers import Writer, rewind
from jsplit.net import membership
from jsplit.net.admission import RunParameters, SessionAdmission
from jsplit.net.client_manager import POLL, AbsencePolicy, ClientManager, Stopped
from jsplit.net.client_session import ClientAbsent, ClientSession
from jsplit.net.config import MIB, ServeConfig
from jsplit.net.events import Event
from jsplit.net.hello_checks import AdmissionRules
from jsplit.net.scoring import Scorer
from jsplit.net.server import ServerTrainer
from jsplit.net.setup import PreparedServer, needs_of, prepare_server
from jsplit.net.state import ServerState
from jsplit.net.traffic_counter import TrafficCounter, open_totals
from jsplit.typing import SENT, STATES
from jsplit.wire.messages import NAME_BYTES, Done, Hello

PHASES = ("gathering", "labels", "training", "ending", "finished", "stopped", "failed")
"""What a server does: it waits for its clients, for their labels, trains, waits until
they have read the end; and how it ended."""


class ServerRun:
    """A networked run on the server's side.

    Args:
        config: of the run.
        serving: how to serve it.
        folder: of the run, held by this process.
        notify: takes a line of text for people.
        stopping: whether the server was asked to stop.

    Attributes:
        admission: handles every connection.
        counter: counts what crosses.
        records: one for each epoch.
        phase: what it does just now, one of `PHASES`; and `since` when, of
            `time.monotonic()`.
        manager: the clients as the training asks them, once there is one.
        epochs: how many there will be.
    """

    def __init__(
        self,
        config: RunConfig,
        serving: ServeConfig,
        folder: RunFolder,
        notify: Callable[[str], None],
        stopping: Callable[[], bool],
    ):
        self.counter = TrafficCounter(open_totals(folder.traffic))
        self.sessions = [
            ClientSession(client, self.counter, notify)
            for client in range(config.clients)
        ]
        self.admission = SessionAdmission(
            self.sessions,
            AdmissionRules(
                config.clients,
                agreement(config),
                serving.examples_limit,
                config.image_size,
                self._check_capacity,
            ),
            self.counter,
            serving.greeting,
            serving.wait,
            notify,
        )
        self.records: list[Record] = []
        self.manager: ClientManager | None = None
        self.epochs = config.all_epochs
        self._enter("gathering")
        self.prepared: PreparedServer | None = None
        self.state: ServerState | None = None
        self.ledger: Ledger | None = None
        self._config = config
        self._serving = serving
        self._folder = folder
        self._notify = notify
        self._stopping = stopping
        self._name = membership.load_members(folder.path, self.admission, self.counter)
        self._store_changed = False

    def train(self, writers: Callable[[int], Sequence[Writer]]) -> bool:
        """Trains until the last epoch or a stop; returns whether the run is complete.

        Args:
            writers: makes those of the records, given the epochs that are done.

        Raises:
            InputError: if the clients' data does not fit the settings.
            RunError: if a client is gone for good, a loss is not finite, or the gate
                gives a state that cannot be.
        """
        try:
            trainer, scorer = self._await_clients()
            self._restore(trainer)
            outputs = writers(len(self.records))
            self._enter("training")
            try:
                self._train_epochs(trainer, scorer, outputs)
            finally:
                for writer in outputs:
                    writer.close()
        except Stopped:
            self._enter("stopped")
            return False
        except BaseException:
            self._enter("failed")
            raise
        self._enter("ending")
        assert self.state is not None
        last = self.records[-1]
        done = Done(
            self._config.all_epochs,
            last.get("test_correct", 0),
            last.get("test_examples", 0),
            self.state.digest,
        )
        for session in self.sessions:
            session.finish(done)
        self.admission.wait_for_goodbyes(self._serving.linger, self._stopping)
        self.counter.commit()
        self._enter("finished")
        return True

    def _enter(self, phase: str) -> None:
        self.phase, self.since = phase, time.monotonic()

    def _check_capacity(self, hello: Hello) -> None:
        """Refuses a client whose examples would end the run, before they count."""
        last = hello.client == self._config.clients - 1
        needs = needs_of(
            self._config,
            hello.image,
            hello.classes,
            hello.examples,
            hello.held_out if last else 0,
        )
        for need, what, limit, flag in (
            (
                needs.store,
                f"the activations of clients of {hello.examples} examples",
                self._serving.memory_limit,
                "--memory-limit",
            ),
            (
                needs.message,
                "the largest message",
                self._serving.message_limit,
                "--message-limit",
            ),
        ):
            if need > limit * MIB:
                raise Refusal(
                    "TOO_LARGE",
                    f"{what} may take {need / MIB:.1f} MiB, more than the server's "
                    f"{flag} {limit}; raise it there, or cut later",
                )

    def _await_clients(self) -> tuple[ServerTrainer, Scorer]:
        """Waits until every client has said what it holds."""
        admission, config = self.admission, self._config
        self._wait_for(admission.fix_members)
        hellos = [admission.hellos[client] for client in range(config.clients)]
        sizes = [hello.examples for hello in hellos]
        prepared = prepare_server(config, hellos[0].image, hellos[0].classes, sizes)
        name = self._name or secrets.token_bytes(NAME_BYTES)
        if self._name is None:
            # Before anybody is told the name: a client takes it for its folder.
            self._save_members(name)
        layout, moments = prepared.setup.layout, membership.moments_of(admission.hellos)
        admission.announce(
            RunParameters(
                name, layout.batch, layout.slots, tuple(zip(*moments, strict=True))
            )
        )
        if not self._all_labelled():
            self._enter("labels")
            self._notify(Event("waiting for the labels of all clients", "waiting"))
            self._wait_for(self._all_labelled)
            self._save_members(name)
        write_description(
            self._folder.path,
            ModelDescription(
                config,
                hellos[0].image,
                hellos[0].classes,
                None,  # only the clients know what classes are called
                *moments,
            ),
        )
        self.prepared, self.state = prepared, prepared.state
        self.ledger = Ledger(prepared.costs)
        self.manager = manager = ClientManager(
            prepared.setup,
            self.sessions,
            self.counter,
            AbsencePolicy(self._serving.wait, self._serving.absent == "skip"),
            self._stopping,
        )
        labels = [admission.labels[client] for client in range(config.clients)]
        trainer = ServerTrainer(
            prepared.setup, manager, labels, self.counter, self._notify
        )
        return trainer, Scorer(prepared.setup, manager, self.counter)

    def _all_labelled(self) -> bool:
        return all(map(self.admission.has_all_labels_of, range(self._config.clients)))

    def _save_members(self, name: bytes) -> None:
        self.counter.commit()
        membership.save_members(self._folder.path, name, self.admission, self.counter)

    def _wait_for(self, condition: Callable[[], bool]) -> None:
        while True:
            with self.admission.changed:
                if self.admission.changed.wait_for(condition, POLL):
                    return
            if self._stopping():
                raise Stopped

    def _restore(self, trainer: ServerTrainer) -> None:
        """Goes back to the newest checkpoint; to the start if there is none yet."""
        assert self.state is not None and self.ledger is not None
        epochs = checkpoint.latest(self._folder.checkpoints)
        if epochs is None:
            rewind(self._folder.metrics, 0)
            return
        small, meta, _ = checkpoint.restore(
            self._folder.checkpoints, epochs, _small(self.state), None
        )
        if meta["store"]:
            _, _, store = checkpoint.restore(
                self._folder.checkpoints, epochs, small, trainer.store.arrays
            )
            assert store is not None
            trainer.store.replace(store)
        self.records = rewind(self._folder.metrics, epochs)
        self.state = ServerState(
            server=small["server"],
            gate=small["gate"],
            digest=bytes.fromhex(meta["digest"]),
            client=small["client"] or None,
            holders=frozenset(meta["holders"]),
            epoch=epochs,
        )
        for record in self.records:
            self.ledger.add(record["state"], record["absent"])
        self.counter.restore(meta["account"])
        self._notify(Event(f"going on after epoch {epochs}", "resumed", epoch=epochs))

    def _train_epochs(
        self, trainer: ServerTrainer, scorer: Scorer, writers: Sequence[Writer]
    ) -> None:
        assert self.state is not None and self.ledger is not None
        config, sizes = self._config, step_sizes_of(self._config)
        paces: list[float] = []
        while self.state.epoch < config.all_epochs:
            if self._stopping():
                raise Stopped
            began = time.perf_counter()
            states = [
                *map(STATES.index, self.ledger.states),
                int(self.state.gate.state),
            ]
            check_states(np.array(states), alone=config.local_epochs > 0)
            number, ran = self.state.epoch, STATES[states[-1]]
            told = config.gate.told(trainer.report(self.state))
            self.state, metrics, absent = trainer.run_epoch(
                self.state, float(sizes[number])
            )
            self._store_changed |= ran in SENT
            self.ledger.add(ran, absent)
            record = self._record(ran, metrics, absent) | told
            record |= self._score(scorer, number + 1)
            spent = time.perf_counter() - began
            paces.append(spent)
            before = self.records[-1]["seconds"] if self.records else 0.0
            record |= {
                # After the score, which crosses too.
                "counted_bytes": self.counter.total,
                "learning_rate": float(sizes[number]),
                "seconds": before + spent,
                "eta_seconds": eta(paces, config.all_epochs - number - 1),
            }
            self.records.append(record)
            for writer in writers:
                writer.write(record)
            self._save(trainer)

    def _record(
        self, ran: str, metrics: Metrics | None, absent: frozenset[int]
    ) -> Record:
        assert self.state is not None and self.ledger is not None
        ledger = self.ledger
        examples = 0 if metrics is None else int(metrics.examples)
        loss = None if metrics is None else float(metrics.loss) / examples
        if loss is not None and not np.isfinite(loss):
            raise RunError(
                f"the training loss became {loss} in epoch {self.state.epoch} (state "
                f"{ran}); start a new run with a lower --learning-rate"
            )
        return {
            "epoch": self.state.epoch,
            "epochs": self._config.all_epochs,
            "state": ran,
            "train_loss": loss,
            "train_accuracy": (
                None if metrics is None else int(metrics.correct) / examples
            ),
            "train_examples": examples,
            "absent": sorted(absent),
            "clients": sum(session.connected for session in self.sessions),
            **accounts(ledger),
        }

    def _score(self, scorer: Scorer, epochs: int) -> Record:
        every, labels = self._serving.evaluate, self.admission.held_out
        due = epochs == self._config.all_epochs or (every and epochs % every == 0)
        if labels is None or not due:
            return {}
        assert self.state is not None
        try:
            scores = scorer.score(self.state, labels)
        except ClientAbsent:
            self._notify(
                Event(
                    "nobody is there to send the held-out set: no score",
                    "not_scored",
                    logging.WARNING,
                    epoch=epochs,
                )
            )
            return {}
        examples = int(scores.examples)
        return {
            "test_loss": float(scores.loss) / examples,
            "test_accuracy": int(scores.correct) / examples,
            "test_correct": int(scores.correct),
            "test_examples": examples,
        }

    def _save(self, trainer: ServerTrainer) -> None:
        assert self.state is not None and self.ledger is not None
        needs = needs_store(self.state.gate.state, self.ledger.states)
        # Where epochs go on without a client, what it sent last is needed in A too.
        wanted = needs or self._serving.absent == "skip"
        needed = wanted and self._store_changed
        meta = {
            "digest": self.state.digest.hex(),
            "holders": sorted(self.state.holders),
            "account": self.counter.record(),
            "store": wanted,
        }
        checkpoint.save(
            self._folder.checkpoints,
            self.state.epoch,
            _small(self.state),
            meta,
            store=trainer.store.arrays if needed else None,
        )
        if needed:
            self._store_changed = False


def _small(state: ServerState) -> dict[str, Any]:
    """What is saved after every epoch."""
    return {
        "server": state.server,
        "gate": state.gate,
        "client": {} if state.client is None else state.client,
    }
