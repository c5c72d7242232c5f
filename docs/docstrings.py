"""What griffe must know of the docstrings here before it reads them."""

from typing import Any

import griffe


class ExampleSections(griffe.Extension):
    """Reads a section `Example:` as doctests: griffe knows it as `Examples:` alone."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Is called for every module, class, function and attribute."""
        if obj.docstring:
            text = obj.docstring.value
            obj.docstring.value = text.replace("\nExample:\n", "\nExamples:\n")
