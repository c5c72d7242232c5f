"""The two apps that Flower starts; all of them is in jsplit."""

from jsplit.integrations.flower import client, server

__all__ = ["client", "server"]
