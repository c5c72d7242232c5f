"""`jsplit plan` for the smallest network and data, in this process."""

from jsplit.cli.main import main

WORDS = (
    *("--model", "cnn", "--dataset", "fashion_mnist_10k", "--image-size", "8"),
    *("--train-examples", "200", "--epochs", "12"),
)


def plan_here(*flags: object) -> int:
    """`jsplit plan` with these flags, in this process."""
    return main(["plan", *map(str, flags)])
