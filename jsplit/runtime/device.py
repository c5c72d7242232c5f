"""The device that computes: what was asked for by name, or what JAX finds."""

import os
import platform

import jax

from jsplit.errors import InputError

CHOICES = ("auto", "cpu", "gpu", "tpu")

_PLATFORMS = {"gpu": {"gpu", "cuda", "rocm"}}
"""What JAX_PLATFORMS calls a device, where that is not only our name for it."""

_REMEDY = {
    "gpu": "install jsplit[gpu] and NVIDIA's driver, or take --device auto",
    "tpu": "install jax[tpu], or take --device auto",
    "cpu": "run it in a process of its own",
}


def restrict(name: str) -> None:
    """Has JAX start no other device than the CPU where that was named.

    Several processes meet in between, before any device is started.

    Args:
        name: one of `CHOICES`.

    Raises:
        InputError: if it contradicts the environment's JAX_PLATFORMS.
    """
    allowed = jax.config.jax_platforms  # type: ignore[attr-defined]
    known_as = _PLATFORMS.get(name, {name})
    if name != "auto" and allowed and known_as.isdisjoint(allowed.split(",")):
        raise InputError(
            f"--device {name} contradicts JAX_PLATFORMS={allowed}; drop one of the two"
        )
    if name == "cpu":
        # Else JAX would start the GPU as well, and take most of its memory.
        jax.config.update("jax_platforms", "cpu")


def choose(name: str) -> None:
    """Starts JAX on a device; a device that was named is that one or an error.

    `auto` is what JAX finds. Where it finds a GPU that it cannot use, JAX itself says
    so on standard error. Call it before anything has been computed.

    Args:
        name: one of `CHOICES`.

    Raises:
        InputError: if the device is missing, cannot be started or contradicts the
            environment's JAX_PLATFORMS.
    """
    restrict(name)
    allowed = jax.config.jax_platforms  # type: ignore[attr-defined]
    try:
        found = jax.default_backend()
    # It asserts where JAX_PLATFORMS names nothing but a missing GPU.
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"--device {name}: JAX cannot start on JAX_PLATFORMS={allowed or ''} "
            f"({str(error).strip() or 'no such device'}); unset it, or mend that"
        ) from error
    if name not in ("auto", found):
        raise InputError(
            f"--device {name}: JAX finds no {name.upper()} here, only {found}; "
            f"{_REMEDY[name]}"
        )


def describe() -> str:
    """What JAX computes on, for people."""
    kind = jax.devices()[0].device_kind
    if jax.default_backend() == "cpu":
        return f"cpu, {os.cpu_count()} cores, {platform.machine()}"
    return f"{jax.device_count()} x {kind}"
