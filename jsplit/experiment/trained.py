"""A trained model, read back from the folder of a run, to predict with."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32, Shaped, UInt8

from jsplit import data
from jsplit.core.client_steps import evaluated
from jsplit.core.metrics import make_held_out
from jsplit.core.model_part import ModelPart
from jsplit.core.simulation import TEST_BATCH
from jsplit.core.state import SideState
from jsplit.core.steps import Steps, make_steps
from jsplit.errors import InputError, RunError
from jsplit.experiment import build, checkpoint, parts, workdir
from jsplit.experiment.at_cut import codecs_of, smashed_spec
from jsplit.experiment.description import (
    NAME,
    ModelDescription,
    describe,
    read_description,
)
from jsplit.experiment.halves import read_variables
from jsplit.experiment.workdir import RunFolder
from jsplit.typing import Variables

SIDES = ("client", "server")


class Half(NamedTuple):
    """One side of a trained network.

    Attributes:
        part: the network, as values.
        variables: what was trained: `params`, and `batch_stats` where there are any.
    """

    part: ModelPart
    variables: Variables

    def __call__(self, x: Shaped[Array, "b ..."]) -> Float[Array, "b ..."]:
        """What the half makes of a batch, by running statistics and without dropout."""
        return evaluated(self.part, SideState(self.variables, ()), x)


class Predictions(NamedTuple):
    """What a model says of images.

    Attributes:
        labels: the likeliest class of each image.
        probabilities: of each class, adding up to 1.
    """

    labels: Int32[np.ndarray, " n"]
    probabilities: Float[np.ndarray, "n classes"]


def predictions_of(logits: Float[np.ndarray, "n classes"]) -> Predictions:
    """What logits say.

    Raises:
        RunError: if they are not finite.

    Example:
        >>> said = predictions_of(np.log(np.array([[1.0, 3.0]], np.float32)))
        >>> said.labels.tolist(), said.probabilities.round(3).tolist()
        ([1], [[0.25, 0.75]])
    """
    if not np.all(np.isfinite(logits)):
        raise RunError(
            "the model gives numbers that are not finite; train it again with a lower "
            "--learning-rate"
        )
    return Predictions(
        np.argmax(logits, axis=-1).astype(np.int32),
        np.asarray(jax.nn.softmax(logits, axis=-1)),
    )


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """What a run has trained so far; `load_run` reads it.

    Attributes:
        folder: of the run.
        epochs: after how many.
        description: what goes in and what comes out.
        client: the client's half; None in the folder of a server whose one client
            keeps its part.
        server: the server's half; None in the folder of a client.
    """

    folder: Path
    epochs: int
    description: ModelDescription
    client: Half | None
    server: Half | None

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """What each class is called; None where the data did not say."""
        return self.description.class_names

    def half(self, side: str) -> Half:
        """The half of a side, `client` or `server`.

        Raises:
            InputError: if the folder does not hold it.
        """
        half: Half | None = getattr(self, side)
        if half is None:
            other = next(name for name in SIDES if name != side)
            raise InputError(
                f"{self.folder} holds the {other}'s half alone; the {side}'s is in "
                f"the folder of the {side}"
                + "; jsplit predict --server HOST:PORT asks it there"
                * (side == "server")
            )
        return half

    @cached_property
    def steps(self) -> Steps:
        """The steps of the run, for what passes its codec at the cut."""
        config = self.description.config
        optimizer = build.optimizer_of(config)
        codec, grad_codec = codecs_of(config, self.smashed.shape[1:])
        return make_steps(
            *parts_of(self.description),
            client_optimizer=optimizer,
            server_optimizer=optimizer,
            codec=codec,
            grad_codec=grad_codec,
            defence=build.defence_of(config),
        )

    @property
    def smashed(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of the activations at the cut, of a batch of one."""
        client, _ = parts_of(self.description)
        return smashed_spec(client, self.description.image_shape)

    def smash(self, images: UInt8[Array, "b h w c"]) -> Float[Array, "b ..."]:
        """The activations at the cut: all that the client's half does; can be traced.

        Raises:
            InputError: if the client's half is not there.
        """
        mean, deviation = self.description.mean, self.description.deviation
        return self.half("client")(data.preprocess(images, mean, deviation))

    def classify(self, smashed: Float[Array, "b ..."]) -> Float[Array, "b classes"]:
        """Logits of activations at the cut; can be traced.

        Raises:
            InputError: if the server's half is not there.
        """
        return self.half("server")(smashed)

    def logits(self, images: UInt8[Array, "b h w c"]) -> Float[Array, "b classes"]:
        """Logits of images, through both halves and no codec; can be traced.

        Raises:
            InputError: if a half is not there.
        """
        return self.classify(self.smash(images))

    def predict(
        self, images: UInt8[np.ndarray, "n h w c"], *, coded: bool = False
    ) -> Predictions:
        """Predicts, in batches of 500.

        Args:
            images: of the shape in the description; gray ones may leave the last axis
                out. `jsplit.data.images` fits others.
            coded: whether activations pass the run's codec (and noise) at the cut, as
                they did when the run was tested; the codec fits its format to a
                batch, so that a prediction then depends on the images beside it. If
                not, it depends on its own image alone.

        Raises:
            InputError: if a half is not there, or images are of another shape or dtype.
            RunError: if the model's outputs are not finite.
        """
        for side in SIDES:
            self.half(side)
        images = self.checked(images)
        way = self._coded if coded else self._plain
        batches = make_held_out(images, np.zeros(len(images)), TEST_BATCH)
        logits = np.concatenate(
            [
                np.asarray(way(x, mask))
                for x, mask in zip(batches.examples, batches.mask, strict=True)
            ]
        )[: len(images)]
        return predictions_of(logits)

    def checked(
        self, images: UInt8[np.ndarray, "n h w c"]
    ) -> UInt8[np.ndarray, "n h w c"]:
        """The images with all axes.

        Raises:
            InputError: if they are of another shape or dtype than the model takes.
        """
        images = np.asarray(images)
        shape = self.description.image_shape
        if images.shape[1:] == shape[:2] and shape[2] == 1:
            images = images[..., None]
        if images.dtype != np.uint8 or images.shape[1:] != shape:
            raise InputError(
                f"images are {images.dtype} {list(images.shape)}; {self.folder} takes "
                f"uint8 [n, {', '.join(map(str, shape))}]"
            )
        if not len(images):
            raise InputError("there are no images to predict")
        return images

    @cached_property
    def _plain(self) -> Callable[[jax.Array, jax.Array], jax.Array]:
        compiled = jax.jit(self.logits)
        return lambda images, mask: compiled(images)

    @cached_property
    def _coded(self) -> Callable[[jax.Array, jax.Array], jax.Array]:
        sides = [SideState(self.half(side).variables, ()) for side in SIDES]
        steps = self.steps
        mean, deviation = self.description.mean, self.description.deviation
        return lambda images, mask: steps.predict(
            *sides, data.preprocess(images, mean, deviation), mask
        )


def load_run(
    folder: str | Path, notify: Callable[[str], None] = lambda line: None
) -> TrainedModel:
    """Reads what a run has trained, from its newest checkpoint.

    Args:
        folder: of a run (`jsplit run`, one of a sweep), or of the server or a client of
            a networked one, which hold their own halves.
        notify: takes lines for people, such as that an old run's data is read again.

    Raises:
        InputError: if the folder holds no run, an export of one, nothing trained yet,
            or not what it takes to use the model; of what an earlier version kept,
            where the data that the moments could be computed from again is not there.
        RunError: if the checkpoint is damaged.

    Example:
        >>> import jsplit
        >>> jsplit.load_run("runs/none")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        jsplit.errors.InputError: runs/none holds no run; name the folder of one, ...
    """
    path = Path(folder).expanduser()
    paths = RunFolder(path)
    if not any(file.is_file() for file in (paths.config, path / NAME)):
        raise InputError(
            f"{path} holds no run; name the folder of one, which holds config.json "
            f"(or {NAME}, a client's)"
        )
    if workdir.is_export(path):
        raise InputError(
            f"{path} is what jsplit export made of a run; name the run's own folder "
            "(README.md in the export says how its files are used)"
        )
    found = read_variables(path)
    if found is None:
        raise InputError(
            f"{path} holds nothing trained yet; train it for an epoch (a client's "
            "part is there when its run is over)"
        )
    description = read_description(path) or _computed_again(path, notify)
    build.check_kept_names(description.config, path)
    epochs = checkpoint.latest(paths.checkpoints) or description.config.all_epochs
    halves = {
        side: Half(part, jax.tree.map(jnp.asarray, found[side]))
        for side, part in zip(SIDES, parts_of(description), strict=True)
        if side in found
    }
    return TrainedModel(
        path, epochs, description, halves.get("client"), halves.get("server")
    )


def parts_of(description: ModelDescription) -> tuple[ModelPart, ModelPart]:
    """The client's and the server's part of the network, without weights."""
    shape, classes = description.image_shape, description.num_classes
    return parts.parts_of(description.config, classes, shape)


def _computed_again(path: Path, notify: Callable[[str], None]) -> ModelDescription:
    """The description of a run that an earlier version left without one."""
    _, config, record = workdir.read_workdir(path)
    lacks = (
        f"{path} was made before jsplit kept what a model takes ({NAME}), and that "
        "cannot be computed again"
    )
    if record.get("fingerprint") is None:
        raise InputError(f"{lacks}: its clients hold the data; train it again")
    notify(f"{path} has no {NAME}; reading its data again for the moments")
    try:
        dataset = build.load_dataset(config, notify)
    except InputError as error:
        raise InputError(f"{lacks}: {error}") from error
    if dataset.fingerprint != record["fingerprint"]:
        raise InputError(
            f"{lacks}: it was trained on other data ({record.get('source')}) than is "
            f"there now ({dataset.source}); bring that data back"
        )
    return describe(config, dataset)
