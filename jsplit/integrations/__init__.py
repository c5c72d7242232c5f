"""Frameworks that start runs of jsplit."""
