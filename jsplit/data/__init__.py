"""Data: loading, fitting, augmenting and dealing out labelled images."""

from jsplit.data.augment import augment, preprocess
from jsplit.data.channel_moments import (
    Moments,
    Sums,
    channel_sums,
    moments,
    normalization,
)
from jsplit.data.dataset import Dataset, fingerprint_of, line_of
from jsplit.data.partition import check_scheme, class_counts, partition
from jsplit.data.prepare import LEAST_SIZE, prepare_images
from jsplit.data.sources import check_name, load
from jsplit.data.views import DRAWN, VIEWS, views_of

__all__ = [
    "DRAWN",
    "LEAST_SIZE",
    "VIEWS",
    "Dataset",
    "Moments",
    "Sums",
    "augment",
    "channel_sums",
    "check_name",
    "check_scheme",
    "class_counts",
    "fingerprint_of",
    "line_of",
    "load",
    "moments",
    "normalization",
    "partition",
    "prepare_images",
    "preprocess",
    "views_of",
]
