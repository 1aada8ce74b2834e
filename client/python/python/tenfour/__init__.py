"""Client of tenfour, an erasure-coded S3 object store: S3 over RDMA into memory that you own, and over HTTP where there is no RDMA.

>>> import tenfour
>>> client = tenfour.Client("shm:/run/tenfour/gateway-1.s3", http="http://127.0.0.1:9000")
>>> client.put_object("photos", "hello", b"hello")
>>> client.get_object("photos", "hello")
b'hello'
>>> client.put_object_numpy("training", "step-1", array)
>>> array = client.get_object_numpy("training", "step-1")
>>> client.get_object_into("training", "step-1", array)

Waiting releases Python's global lock, Ctrl-C ends it, and one client serves any number of threads.
"""

from ._client import Client, Listing, ObjectInfo, Read, Stored
from ._native import set_timeout_scale
from ._native import transports as _transports
from .errors import (
    AccessDenied,
    BufferTooSmall,
    Busy,
    Corrupt,
    Error,
    InvalidRequest,
    NotFound,
    OutcomeUnknown,
    PreconditionFailed,
    ProtocolError,
    Unreachable,
)

__all__ = [
    "AccessDenied",
    "BufferTooSmall",
    "Busy",
    "Client",
    "Corrupt",
    "Error",
    "InvalidRequest",
    "Listing",
    "NotFound",
    "ObjectInfo",
    "OutcomeUnknown",
    "PreconditionFailed",
    "ProtocolError",
    "Read",
    "Stored",
    "Unreachable",
    "set_timeout_scale",
    "transports",
]


def transports() -> dict[str, str | None]:
    """What this build knows to carry calls, each with the reason why this machine cannot use it, or ``None`` if it can."""
    return dict(_transports())
