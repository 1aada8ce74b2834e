"""What calls raise.

Arguments that make no sense raise Python's own ``TypeError``, ``ValueError`` and ``BufferError``; everything else is an :class:`Error`.
"""

from __future__ import annotations

__all__ = [
    "AccessDenied",
    "BufferTooSmall",
    "Busy",
    "Corrupt",
    "Error",
    "InvalidRequest",
    "NotFound",
    "OutcomeUnknown",
    "PreconditionFailed",
    "ProtocolError",
    "Unreachable",
]


class Error(Exception):
    """A call failed.

    ``code`` is S3's code when the gateway said no, else ``None``; ``is_retryable`` whether the same call can succeed later. The client
    has made its own tries before (``attempts``).
    """

    code: str | None
    is_retryable: bool

    def __init__(self, message: str, code: str | None = None, is_retryable: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.is_retryable = is_retryable


class NotFound(Error):
    """There is no such bucket or object."""


class AccessDenied(Error):
    """This user may not do that, or is not who it says."""


class PreconditionFailed(Error):
    """The object is not as the call wants it to be (``if_match``, ``only_if_absent``)."""


class InvalidRequest(Error):
    """The request, or this client's configuration, makes no sense there; also a range that an object does not have."""


class BufferTooSmall(InvalidRequest, ValueError):
    """More bytes are to be read than the buffer has room for. Nothing is known of what the buffer holds."""


class Unreachable(Error):
    """No gateway can be reached, or the connection broke and nothing happened."""


class Busy(Error):
    """The gateway, or this client's registered memory, has no room now."""


class OutcomeUnknown(Error):
    """The connection broke on the way: the change was made as a whole or not at all. Read it back, or make it again."""


class Corrupt(Error):
    """The bytes that arrived, here or at the gateway, are not those that were sent, as when another thread wrote to the buffer meanwhile."""


class ProtocolError(Error):
    """The other end is no gateway that knows this user, or breaks the protocol."""
