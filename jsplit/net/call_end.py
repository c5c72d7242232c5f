"""Why a call over gRPC ended: refused by name, or broken."""

import re
from typing import Any

import grpc

from jsplit.errors import Refusal
from jsplit.net.channel import ConnectionLost

REFUSED = "jsplit-refusal"
"""Key of the trailing metadata that names a refusal."""

_FRAMING = re.compile(
    r"^failed to connect to all addresses; last error: "
    r"([A-Z_]+: )?(ipv[46]:\S+: )?(Failed to connect to remote host: )?"
)


def reason_of(error: grpc.RpcError) -> Exception:
    """A call that ended: refused by name, or broken."""
    call: Any = error
    metadata = dict(call.trailing_metadata() or ())
    if REFUSED in metadata:
        return Refusal(str(metadata[REFUSED]), call.details() or "")
    if "larger than max" in (call.details() or ""):
        return Refusal(
            "TOO_LARGE",
            "a message is larger than the --message-limit of this client or of the "
            f"server allows ({call.details()})",
        )
    if call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return Refusal("FULL", "the server has no place for another connection")
    return ConnectionLost(cause_of(call.details() or call.code().name)[:200])


def cause_of(details: str) -> str:
    """Why a call failed, in one line, without what gRPC puts around it.

    Example:
        >>> cause_of("failed to connect to all addresses; last error: UNKNOWN: "
        ...          "ipv4:127.0.0.1:7070: Failed to connect to remote host: "
        ...          "Connection refused")
        'Connection refused'
    """
    return _FRAMING.sub("", " ".join(details.split()))
