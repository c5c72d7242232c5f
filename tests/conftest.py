"""What every test runs under: CPU, strict promotion, repeatable examples.

Strict dtype and rank promotion find the silent float32/bfloat16 mix and the silent
broadcast, both of which would change what crosses the cut. flax's convolution, dense,
batch-norm and dropout layers and optax's optimisers pass; `flax.linen.avg_pool` does
not (it divides by a NumPy integer), so models take means instead.
"""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

# Before JAX is imported; set it outside to run the tests on an accelerator.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import hypothesis  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
if os.environ["JAX_PLATFORMS"] != "cpu":
    # An accelerator rounds the factors of float32 products by default; the tolerances
    # here are those of float32.
    jax.config.update("jax_default_matmul_precision", "highest")

# A compile may fall into any example, so no deadline; derandomised, so that a clean
# clone fails where the author's did. HYPOTHESIS_PROFILE=thorough looks further.
hypothesis.settings.register_profile(
    "default", deadline=None, max_examples=50, derandomize=True
)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=1000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


MAPS = Path("/proc/self/maps")
MOST_MAPS, MOST_MAPS_OF_A_MODULE = 10_000, 30_000


@pytest.fixture(autouse=True, scope="session")
def own_cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What the command line keeps for the next run does not go into the user's home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True, scope="module")
def room_for_programs() -> Iterator[None]:
    """Forgets compiled programs before there are too many for one process.

    Each takes dozens of memory maps, of which Linux gives a process 65,530 by default;
    beyond them XLA ends in a segmentation fault.
    """
    yield
    _forget_programs_beyond(MOST_MAPS)


@pytest.fixture(autouse=True)
def room_for_programs_of_a_module() -> Iterator[None]:
    """The same within a module: the networked tests alone take more than 40,000."""
    yield
    _forget_programs_beyond(MOST_MAPS_OF_A_MODULE)


def _forget_programs_beyond(most: int) -> None:
    if MAPS.exists() and MAPS.read_bytes().count(b"\n") > most:
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def usual_promotion() -> Iterator[None]:
    """For attacks: Optax's Adam and Flax's mean of places mix floats and integers."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Compiled programs are kept in one folder for all modules that ask for this.

    A module asks by `pytestmark = pytest.mark.usefixtures("cache")`, or names it in a
    fixture or a test that hands the folder on to other processes.
    """
    # Not above: most tests need neither the network nor the command line.
    from jsplit.testing import compile_once

    with compile_once(tmp_path_factory.getbasetemp()) as folder:
        yield folder
