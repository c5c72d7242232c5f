"""What a dataset's labels leave in doubt: what nobody can learn, or no test can say."""

import numpy as np

from jsplit.data.dataset import Dataset


def label_doubts(dataset: Dataset) -> list[str]:
    """Sentences for people about labels that a training or its test makes little of.

    Of classes without a training image, or, where one class alone has any, of that; and
    of a test set whose classes all have none. An empty list for a sound dataset.

    Example:
        >>> from jsplit.data.dataset import make_dataset
        >>> images = np.zeros((3, 8, 8), np.uint8)
        >>> def doubts(train, test):
        ...     arrays = images, np.array(train), images, np.array(test)
        ...     made = make_dataset("mine", arrays, num_classes=5, source="")
        ...     print(*label_doubts(made), sep="; ")
        >>> doubts([0, 3, 4], [0, 3, 4])
        no training image of mine has label 1 or 2, of 5 classes (0 to 4)
        >>> doubts([3, 3, 3], [3, 3, 4])
        every training image of mine has label 3; alone that teaches a network nothing
    """
    counts = np.bincount(dataset.train_labels, minlength=dataset.num_classes)
    empty = [str(label) for label in np.flatnonzero(counts == 0)]
    doubts = []
    if len(empty) == dataset.num_classes - 1:
        doubts.append(
            f"every training image of {dataset.name} has label {np.argmax(counts)}; "
            "alone that teaches a network nothing"
        )
    elif empty:
        doubts.append(
            f"no training image of {dataset.name} has label {_listed(empty)}, of "
            f"{dataset.num_classes} classes (0 to {dataset.num_classes - 1})"
        )
    if not np.any(counts[dataset.test_labels]):
        doubts.append(
            f"no test image of {dataset.name} has a label that a training image has, "
            "so that test accuracy says nothing"
        )
    return doubts


def _listed(labels: list[str]) -> str:
    more = f" ({len(labels) - 8} more such labels)" if len(labels) > 8 else ""
    *first, last = labels[:8]
    return (f"{', '.join(first)} or {last}" if first else last) + more
