"""Data: loading, fitting, augmenting and dealing out labelled images."""

from jsplit.data.augment import augment, preprocess
from jsplit.data.dataset import Dataset
from jsplit.data.partition import class_counts, partition
from jsplit.data.prepare import normalization, prepare_images
from jsplit.data.sources import load

__all__ = [
    "Dataset",
    "augment",
    "class_counts",
    "load",
    "normalization",
    "partition",
    "prepare_images",
    "preprocess",
]
