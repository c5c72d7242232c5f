"""Where codecs go one by one, because XLA:CPU fuses badly what they do at once."""

import jax


def lone_cpu() -> bool:
    """Whether a CPU is the only device.

    With several devices a loop over what is spread over them would gather it first.
    """
    return jax.default_backend() == "cpu" and jax.device_count() == 1
