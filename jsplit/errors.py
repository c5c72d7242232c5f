"""The ways in which jsplit refuses to go on, each one clear line."""


class InputError(ValueError):
    """What the user gave cannot be used; the program exits with code 2.

    The message is one line that names the value and the remedy.
    """


class RunError(RuntimeError):
    """A run that was properly asked for failed; the program exits with code 1.

    The message is one line that says where it failed and what to do.
    """


class Refusal(Exception):
    """A message from the other side that is not accepted, by a name of `docs/wire.md`.

    Attributes:
        name: such as `SETTINGS`.
        text: what is wrong, for people.
    """

    def __init__(self, name: str, text: str):
        super().__init__(f"{name}: {text}")
        self.name = name
        self.text = text
