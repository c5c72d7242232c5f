"""Data: loading, fitting, augmenting and dealing out labelled images."""

from jsplit.data.augment import augment, preprocess
from jsplit.data.dataset import Dataset
from jsplit.data.partition import class_counts, partition
from jsplit.data.prepare import (
    Moments,
    Sums,
    channel_sums,
    moments,
    normalization,
    prepare_images,
)
from jsplit.data.sources import load

__all__ = [
    "Dataset",
    "Moments",
    "Sums",
    "augment",
    "channel_sums",
    "class_counts",
    "load",
    "moments",
    "normalization",
    "partition",
    "prepare_images",
    "preprocess",
]
