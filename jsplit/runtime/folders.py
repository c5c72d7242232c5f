"""Where this system wants a user's files."""

from pathlib import Path


def user_cache() -> Path:
    """The folder for what can be made again: on Linux `~/.cache/jsplit`.

    Raises:
        RuntimeError: If the user has no home, and $XDG_CACHE_HOME names no other.
    """
    # Of an extra: neither `import jsplit` nor a training from Python comes here.
    from platformdirs import user_cache_path

    return user_cache_path("jsplit").expanduser()
