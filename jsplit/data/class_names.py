"""What classes may be called, wherever a user wrote it."""

import unicodedata
from collections.abc import Sequence


def fault_of_names(names: Sequence[object]) -> tuple[str, str] | None:
    """What is wrong with the names of all classes, in the order of labels.

    Args:
        names: as they were read; what is no text is no name.

    Returns:
        The fault and the remedy; None where each class has a name of its own that fits
        in a line.

    Example:
        >>> fault_of_names(["cat", "dog"]) is None
        True
        >>> fault_of_names(["cat", "dog", "cat"])
        ('class_names are cat, dog, cat', 'give each class its own')
    """
    for label, name in enumerate(names):
        if not (isinstance(name, str) and is_name(name)):
            return (
                f"class_names[{label}] is {name!r}, which nothing can be called",
                "give each class a name, without line breaks and other control "
                "characters",
            )
    if len(set(names)) < len(names):
        named = ", ".join(map(str, names))
        return f"class_names are {named}", "give each class its own"
    return None


def is_name(text: str) -> bool:
    """Whether a class can be called so: not empty, and nothing in it controls lines."""
    letters = map(unicodedata.category, text)
    return bool(text.strip()) and not {"Cc", "Zl", "Zp"} & {*letters}
