"""What maps in few bits must be compared with: the images themselves as JPEG, once.

    python -m benchmarks.lossy_images runs/cifar10.npz --out runs/jpeg92.npz

Writes the data set with its training images as JPEG leaves them (test images stay as
they are), and says how many bytes that JPEG has: sheets of 1,000 images, whose edges
fall on those of JPEG's blocks if they have a multiple of 8 pixels, with colours at full
resolution, because a file for each small image would be mostly its header. Plain split
learning on the new file then is what a server learns that was sent these bytes and no
map:

    jsplit sweep configs/sweeps/small_cifar10_jpeg.toml
"""

import argparse
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import measure
from jsplit.errors import InputError
from jsplit.experiment.build import load_dataset
from jsplit.experiment.config import RunConfig
from jsplit.experiment.quantities import counted
from jsplit.runtime import atomic

SHEET = 1000
"""Images below one another in a file, at most."""

MOST_ROWS = 65_535
"""Of a JPEG."""


def main(argv: Sequence[str] | None = None) -> None:
    """Writes the data set of images that were JPEG once."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", help="of images with three channels, as --dataset")
    parser.add_argument(
        "--train-examples", type=measure.positive, default=10_000, help="default 10000"
    )
    parser.add_argument(
        "--quality",
        type=int,
        choices=range(1, 96),
        metavar="1..95",
        default=92,
        help="of JPEG, default 92",
    )
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    asked = parser.parse_args(argv)
    measure.check_out(parser, asked.out)
    config = RunConfig(dataset=asked.dataset, train_examples=asked.train_examples)
    try:
        dataset = load_dataset(config, print)
    except InputError as error:
        parser.error(str(error))
    channels = dataset.image_shape[-1]
    if channels != 3:
        has = f"{asked.dataset} has images of {counted(channels, 'channel')}"
        parser.error(f"{has}; 3 are needed")
    images, size = as_jpeg(dataset.train_images, asked.quality)
    file = io.BytesIO()
    np.savez(
        file,
        train_images=images,
        train_labels=dataset.train_labels,
        test_images=dataset.test_images,
        test_labels=dataset.test_labels,
    )
    atomic.write_bytes(asked.out, file.getvalue())
    error = np.mean(np.square((images - dataset.train_images.astype(float)) / 255))
    print(
        f"{len(images):,} images as JPEG {asked.quality}: {size:,} bytes "
        f"({size / 2**20:.2f} MiB; {dataset.train_images.nbytes / size:.1f} times less "
        f"than raw), PSNR {-10 * np.log10(error):.1f} dB; in {asked.out}"
    )


def as_jpeg(images: np.ndarray, quality: int) -> tuple[np.ndarray, int]:
    """What JPEG leaves of uint8 images `[n, h, w, 3]`, and its bytes of all of them."""
    count, height, width, _ = images.shape
    left, size = [], 0
    sheet_of = max(1, min(SHEET, MOST_ROWS // height))
    for at in range(0, count, sheet_of):
        some = images[at : at + sheet_of]
        file = io.BytesIO()
        sheet = Image.fromarray(some.reshape(-1, width, 3))
        sheet.save(file, "JPEG", quality=quality, subsampling=0, optimize=True)
        size += file.tell()
        left.append(np.asarray(Image.open(file)).reshape(-1, height, width, 3))
    return np.concatenate(left), size


if __name__ == "__main__":
    main()
