"""The settings of a run: frozen records whose fields say all that is known of them."""

from dataclasses import dataclass
from typing import Annotated, Literal

from jsplit.codecs import CODECS
from jsplit.core.gate_choice import GateChoice
from jsplit.core.gates import GATES, LossGate
from jsplit.core.option import MOST, Option
from jsplit.core.topology import TOPOLOGIES
from jsplit.experiment.option_groups import RUN_GROUPS
from jsplit.models import MODELS
from jsplit.runtime.device import CHOICES


@dataclass(frozen=True)
class RunConfig:
    """Every setting of a run. Unset ones (None) follow from the others."""

    GROUPS = RUN_GROUPS

    model: Annotated[
        str, Option("The network. Installed packages may add to these.", choices=MODELS)
    ] = "resnet18"
    cut: Annotated[
        int | None,
        Option(
            "Number of blocks that the client holds; see --show-cuts. None: the usual "
            "number of the model.",
            least=1,
            most=MOST,
        ),
    ] = None
    dataset: Annotated[
        str,
        Option(
            "The images: a set that is known by name, any that TFDS prepared, or a "
            "file of your own. With auto they are CIFAR-10 if it can be had, else "
            "fashion_mnist_10k, which comes with jsplit.",
            "{auto,cifar10,fashion_mnist,fashion_mnist_10k}|tfds:NAME|FILE.npz",
            one_side=True,
        ),
    ] = "auto"
    data_dir: Annotated[
        str | None,
        Option(
            "The folder of datasets. None: ~/tensorflow_datasets.",
            "FOLDER",
            speed_only=True,
        ),
    ] = None
    image_size: Annotated[
        int | None,
        Option(
            "Edge in pixels to which images are scaled. None: they stay as they are.",
            least=4,
            most=1024,
        ),
    ] = None
    train_examples: Annotated[
        int | None,
        Option(
            "Number of training examples, balanced over classes. None: all of them.",
            least=1,
            most=MOST,
            one_side=True,
        ),
    ] = None
    test_examples: Annotated[
        int | None,
        Option(
            "Number of test examples, balanced over classes. None: all of them.",
            least=1,
            most=MOST,
            one_side=True,
        ),
    ] = None
    augment: Annotated[
        bool, Option("Training images of state A are cropped and flipped at random.")
    ] = True

    clients: Annotated[
        int,
        Option("Number of clients that hold the training set.", least=1, most=MOST),
    ] = 1
    topology: Annotated[
        str,
        Option(
            "In parallel all clients train at once, and their parts are averaged after "
            "each epoch of A. Each gives as many examples to a step until it has no "
            "more; proportional is parallel where each spreads what it holds over all "
            "steps. Sequential clients take turns and hand one part on.",
            choices=TOPOLOGIES,
        ),
    ] = "parallel"
    partition: Annotated[
        str,
        Option(
            "How clients share the examples: all alike, with skewed labels "
            "(dirichlet), or in shares of different sizes (uneven).",
            "{iid,dirichlet:ALPHA,uneven:ALPHA}",
        ),
    ] = "iid"

    gate: Annotated[
        GateChoice,
        Option(
            "What chooses the state of each epoch. The loss gate is that of the paper, "
            "periodic and freeze ignore the loss, budget spends what may cross by the "
            "loss, and always is plain split learning. Installed packages may add to "
            "these.",
            choices=GATES,
            compared=True,
        ),
    ] = LossGate()

    codec: Annotated[
        str,
        Option(
            "How activations are coded. With float8 a format is searched for each "
            "tensor, bits2 to bits8 are packed into so many bits a value, and top4 and "
            "top16 send one value in so many. Installed packages may add to these.",
            choices=CODECS,
            compared=True,
        ),
    ] = "float8"
    grad_codec: Annotated[
        str,
        Option(
            "How gradients are coded. where-sent sends them for the values alone that "
            "--codec top4 or top16 sent.",
            choices=CODECS,
            compared=True,
        ),
    ] = "float8"
    refresh_statistics: Annotated[
        Literal["running", "batch"],
        Option(
            "By which statistics the client normalises in state B: its running ones, "
            "or those of the batch.",
            beyond_a=True,
            compared=True,
        ),
    ] = "running"
    views: Annotated[
        str,
        Option(
            "What state B sends of each image, and C learns from: a list of views. "
            "Each of them takes an epoch of B and a place in the store, and C draws "
            "from all. Augmented ones are as in A where that augments.",
            "{plain,mirrored,cropped,augmented},...",
            beyond_a=True,
            compared=True,
        ),
    ] = "plain"

    replay_shift: Annotated[
        int,
        Option(
            "State C moves stored maps by up to so many cells either way. 0: it does "
            "not.",
            "CELLS",
            least=0,
            most=1024,
            beyond_a=True,
            compared=True,
        ),
    ] = 0
    replay_mirror: Annotated[
        bool,
        Option(
            "State C mirrors half of the stored maps, as cosines (--first-filters) "
            "have it where they are all that the client holds.",
            beyond_a=True,
            compared=True,
        ),
    ] = False
    replay_cutout: Annotated[
        int,
        Option(
            "State C blanks a square of so many cells in each stored map. 0: it does "
            "not.",
            "CELLS",
            least=0,
            most=1024,
            beyond_a=True,
            compared=True,
        ),
    ] = 0
    mixup: Annotated[
        float,
        Option(
            "State C mixes stored pairs, with shares drawn from Beta(M, M). 0: it does "
            "not.",
            "M",
            beyond_a=True,
            compared=True,
        ),
    ] = 0.0
    replay_always: Annotated[
        bool,
        Option(
            "The server moves, mirrors, blanks and mixes in A and B as it does in C.",
            compared=True,
        ),
    ] = False

    local_epochs: Annotated[
        int,
        Option(
            "Number of epochs, before the first of the gate, in which each client "
            "learns alone by a small head of its own, and sends nothing.",
            least=0,
            most=MOST,
            compared=True,
        ),
    ] = 0
    bottleneck: Annotated[
        int | None,
        Option(
            "Number of channels to which the client's part is projected at the cut; "
            "the server's begins with the way back. None: there is no projection.",
            least=1,
            most=MOST,
            compared=True,
        ),
    ] = None

    nopeek: Annotated[
        float,
        Option(
            "Weight of the NoPeek penalty in the client's loss (distance correlation "
            "of inputs and activations).",
            least=0,
            compared=True,
        ),
    ] = 0.0
    noise: Annotated[
        float,
        Option(
            "Standard deviation of the Gaussian noise that the client adds to its "
            "activations, as a multiple of their root mean square.",
            least=0,
            compared=True,
        ),
    ] = 0.0

    init: Annotated[
        str | None,
        Option(
            "The folder of a run, or a .safetensors file with the names that jsplit "
            "export gives, whose weights this run begins with. None: random ones.",
            "RUN|FILE",
            traced=True,
            compared=True,
        ),
    ] = None
    init_part: Annotated[
        Literal["both", "client", "server", "body"],
        Option(
            "What --init gives: both halves, the client's or the server's alone, or "
            "the body, which is all but the last block (for other classes).",
            traced=True,
            compared=True,
        ),
    ] = "both"

    first_filters: Annotated[
        Literal["random", "dct", "dct-ac"],
        Option(
            "What the first convolution's filters begin as: random ones, the cosines "
            "of the discrete transform (dct), which a client need not train, or those "
            "of them that see edges alone (dct-ac).",
            compared=True,
        ),
    ] = "random"

    precision: Annotated[
        Literal["float32", "bfloat16"],
        Option("The numbers that networks compute in. Everything else stays float32."),
    ] = "float32"

    epochs: Annotated[
        int,
        Option("Number of epochs in A, B and C.", least=1, most=MOST, traced=True),
    ] = 200
    batch_size: Annotated[
        int | None,
        Option(
            "Number of examples in a step of the server. None: 128 with one client, "
            "else 100.",
            least=1,
            most=MOST,
        ),
    ] = None
    learning_rate: Annotated[
        float,
        Option(
            "The learning rate of SGD, multiplied by 0.2 after 30, 60 and 80 % of the "
            "epochs.",
            above=0,
            traced=True,
        ),
    ] = 0.05
    momentum: Annotated[float, Option("The momentum of SGD.", least=0, below=1)] = 0.9
    weight_decay: Annotated[
        float, Option("Weight of the L2 penalty on every parameter.", least=0)
    ] = 5e-4
    seed: Annotated[
        int,
        Option(
            "Seed of weights, partition, order, augmentation and dropout.",
            least=0,
            most=2**32 - 1,
            traced=True,
        ),
    ] = 0

    workdir: Annotated[
        str | None,
        Option(
            "The run's folder. None: a new one under runs/.", "FOLDER", speed_only=True
        ),
    ] = None
    device: Annotated[
        str,
        Option(
            "What computes. With auto it is whatever JAX finds; naming a device makes "
            "its absence an error.",
            choices=CHOICES,
            speed_only=True,
        ),
    ] = "auto"
    compile_cache: Annotated[
        str | None,
        Option(
            "The folder of compiled programs, or off. None: "
            "$JAX_COMPILATION_CACHE_DIR, else one under ~/.cache/jsplit.",
            "FOLDER|off",
            speed_only=True,
        ),
    ] = None
    chunk: Annotated[
        int,
        Option(
            "Number of epochs in a compiled call; progress and checkpoints come after "
            "each call.",
            least=1,
            most=MOST,
            speed_only=True,
        ),
    ] = 1
    lossless: Annotated[
        bool,
        Option(
            "Payloads are also counted as the wire's lossless stage makes them, which "
            "takes longer.",
            speed_only=True,
        ),
    ] = False
    mesh: Annotated[
        bool,
        Option(
            "Clients and batches are shared over all devices of all processes. This "
            "changes the order of sums: results agree within rounding.",
            speed_only=True,
        ),
    ] = False

    def __post_init__(self) -> None:
        if not isinstance(self.gate, GateChoice):
            raise TypeError(
                f"gate must be a value such as LossGate(0.05), got {self.gate!r}; "
                "config.changed takes names and flat settings"
            )

    @property
    def server_batch(self) -> int:
        """Examples of one server step."""
        if self.batch_size is not None:
            return self.batch_size
        return 128 if self.clients == 1 else 100

    @property
    def replays(self) -> list[str]:
        """What the server does to stored maps before it learns from them, in words."""
        done = {
            f"shift {self.replay_shift}": self.replay_shift,
            "mirror": self.replay_mirror,
            f"cutout {self.replay_cutout}": self.replay_cutout,
            f"mixup {self.mixup:g}": self.mixup > 0,
        }
        return [words for words, asked in done.items() if asked]

    @property
    def all_epochs(self) -> int:
        """Epochs of the gate, and those before in which clients learn alone."""
        return self.local_epochs + self.epochs
