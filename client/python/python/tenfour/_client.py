"""The client: names, types and defaults around the compiled half."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from . import _numpy
from ._native import NativeClient
from .errors import PreconditionFailed

if TYPE_CHECKING:
    import numpy

__all__ = ["Client", "Listing", "ObjectInfo", "Read", "Stored"]

META = "x-amz-meta-"
# An object that is replaced while it is read is read anew so often.
REPLACED_MAX = 5
PAGE_KEYS = 1000


@dataclass(frozen=True)
class ObjectInfo:
    """What is known of an object."""

    size: int
    """Bytes."""
    etag: str
    modified: datetime
    metadata: dict[str, str] = field(default_factory=dict)
    """User metadata, without the prefix ``x-amz-meta-``."""
    headers: dict[str, str] = field(default_factory=dict)
    """Standard headers that were stored with it, such as ``content-type``."""


@dataclass(frozen=True)
class Read:
    """What was read into a buffer."""

    count: int
    """Bytes, from the beginning of the buffer."""
    object: ObjectInfo
    start: int
    """The first byte of the object that was read."""
    transport: str
    """What carried it to the gateway: ``verbs``, ``shm``, ``tcp`` or ``http``."""
    fabric: str
    """What carried it between gateway and nodes, as far as the gateway tells."""


@dataclass(frozen=True)
class Stored:
    """An object is durable and visible."""

    etag: str
    transport: str
    fabric: str


@dataclass(frozen=True)
class Listing:
    """One entry of a listing: an object, or a common prefix, which has no size."""

    key: str
    size: int | None = None
    etag: str | None = None
    modified: datetime | None = None

    @property
    def is_prefix(self) -> bool:
        return self.size is None


class Client:
    """A client of one cluster, for one user, with one connection, on which any number of threads may make calls at once.

    ``endpoints`` are gateways, tried in order: ``verbs:10.0.0.4:9100``, ``shm:/run/tenfour/gateway-1.s3``, ``tcp:10.0.0.4:9100``. Those that
    this machine or build cannot use are passed over. With ``http`` (such as ``http://10.0.0.4:9000``) calls go over HTTP when no gateway
    can be reached by RDMA, or when there are no endpoints; without it they never do.

    The keys are taken from ``AWS_ACCESS_KEY_ID`` and ``AWS_SECRET_ACCESS_KEY``, the region from ``AWS_REGION`` or ``AWS_DEFAULT_REGION``,
    when they are not given.

    ``pool_bytes`` is memory of the client's own, which becomes resident as it is used. Over ``verbs``, objects of at least
    ``zero_copy_from`` bytes go between the store and your memory without a copy; for that your memory is registered with the device on
    the way and kept so for some seconds, at most ``kept_bytes`` of it. A kept object cannot be resized meanwhile;
    :meth:`release_registrations` lets go of all.

    A call is given up when it was not answered for ``answer_timeout`` seconds, and for one more for every 256 KiB that it moves. It is
    made at most ``attempts`` times. A PUT or DELETE without a condition whose outcome is unknown is made again only with
    ``overwrite``; else it raises :class:`tenfour.OutcomeUnknown`.
    """

    def __init__(
        self,
        endpoints: str | Sequence[str] = (),
        *,
        http: str | None = None,
        access_key: str | None = None,
        secret_key: str | None = None,
        region: str | None = None,
        pool_bytes: int = 64 << 20,
        zero_copy_from: int = 64 << 10,
        kept_bytes: int = 256 << 20,
        connect_timeout: float = 10.0,
        answer_timeout: float = 120.0,
        attempts: int = 5,
        overwrite: bool = False,
    ) -> None:
        endpoints = [endpoints] if isinstance(endpoints, str) else list(endpoints)
        if not endpoints and http is None:
            raise ValueError("give an endpoint (verbs:…, shm:…, tcp:…), or an address for HTTP (http=…)")
        self._native = NativeClient(
            endpoints,
            http,
            _given("access_key", access_key, "AWS_ACCESS_KEY_ID"),
            _given("secret_key", secret_key, "AWS_SECRET_ACCESS_KEY"),
            region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1",
            pool_bytes,
            zero_copy_from,
            kept_bytes,
            connect_timeout,
            answer_timeout,
            attempts,
            overwrite,
        )

    def put_object(
        self,
        bucket: str,
        key: str,
        data: Any,
        *,
        metadata: Mapping[str, str] | None = None,
        content_type: str | None = None,
        if_match: str | None = None,
        only_if_absent: bool = False,
        mode: Literal["auto", "push", "pull"] = "auto",
    ) -> Stored:
        """Stores any object with the buffer protocol (``bytes``, ``bytearray``, ``memoryview``, ``mmap``, arrays) that is in one piece.

        When it returns, the object is durable and visible. ``if_match`` is an ETag, or ``*`` for any. ``mode`` says how the bytes travel
        over RDMA: the client writes them (``push``), the gateway reads them (``pull``), or whichever suits their size. Leave the memory
        as it is until the call returns.
        """
        headers = [(META + name.lower(), value) for name, value in (metadata or {}).items()]
        if content_type is not None:
            headers.append(("content-type", content_type))
        data = _as_memory(data)
        return Stored(*self._native.put(bucket, key, data, headers, if_match, only_if_absent, mode))

    def get_object(
        self, bucket: str, key: str, *, start: int = 0, stop: int | None = None, if_match: str | None = None
    ) -> bytes:
        """The bytes of an object, or those from ``start`` to before ``stop``: always of one version.

        An empty range is refused (:class:`tenfour.InvalidRequest`), as S3 has none.
        """
        return self._native.get(bucket, key, start, stop, if_match)[0]

    def get_object_into(
        self,
        bucket: str,
        key: str,
        buffer: Any,
        *,
        start: int = 0,
        stop: int | None = None,
        if_match: str | None = None,
    ) -> Read:
        """Reads an object, or its bytes from ``start`` to before ``stop``, to the beginning of a buffer.

        The buffer is any writable object with the buffer protocol that is in one piece (``bytearray``, ``memoryview``, an array of either
        order: bytes go to memory as it lies). One that is too small raises :class:`tenfour.BufferTooSmall`. After an error it holds
        nothing in particular. Leave it alone until the call returns.
        """
        buffer = _as_memory(buffer)
        count, told = self._native.get_into(bucket, key, buffer, start, stop, if_match)
        return Read(count, _object_info(told), told[4][0], told[5], told[6])

    def put_object_numpy(
        self,
        bucket: str,
        key: str,
        array: Any,
        *,
        metadata: Mapping[str, str] | None = None,
        content_type: str | None = None,
        if_match: str | None = None,
        only_if_absent: bool = False,
        mode: Literal["auto", "push", "pull"] = "auto",
    ) -> Stored:
        """Stores an array with its dtype, shape and order, which are kept as user metadata.

        Arrays in one piece, of C or F order, are sent from where they lie; others are copied first, and stored in C order. Arrays of
        references (dtype ``object``) raise ``TypeError``.
        """
        array, described = _numpy.describe(array)
        return self.put_object(
            bucket,
            key,
            _numpy.as_bytes(array),
            metadata={**(metadata or {}), **described},
            content_type=content_type,
            if_match=if_match,
            only_if_absent=only_if_absent,
            mode=mode,
        )

    def get_object_numpy(self, bucket: str, key: str) -> numpy.ndarray[Any, Any]:
        """The array that was stored, with its dtype, shape and order; of any other object its bytes, one-dimensional, as ``uint8``.

        Raises ``ValueError`` when what is stored beside the object describes no array of its size.
        """
        for replaced in range(REPLACED_MAX + 1):
            first, told = self._native.first(bucket, key)
            info = _object_info(told)
            array: numpy.ndarray[Any, Any]
            array, memory = _numpy.restore(info.metadata, info.size)
            memory[: len(first)] = memoryview(first)
            if len(first) == info.size:
                return array
            try:
                rest = memory[len(first) :]
                self._native.get_into(bucket, key, rest, len(first), None, info.etag)
                return array
            except PreconditionFailed:
                if replaced == REPLACED_MAX:
                    raise
        raise AssertionError("the last round returns or raises")

    def head_object(self, bucket: str, key: str) -> ObjectInfo:
        """What is known of an object."""
        return _object_info(self._native.head(bucket, key))

    def delete_object(self, bucket: str, key: str, *, if_match: str | None = None) -> None:
        """Removes an object; succeeds when there is none, unless ``if_match`` wants one."""
        self._native.delete(bucket, key, if_match)

    def list_objects(
        self, bucket: str, prefix: str = "", *, delimiter: str = "", start_after: str | None = None
    ) -> Iterator[Listing]:
        """Keys in order, and common prefixes up to the next ``delimiter``, fetched page by page as they are asked for."""
        token = None
        while True:
            objects, prefixes, token = self._native.list(
                bucket, prefix, delimiter, start_after, token, PAGE_KEYS
            )
            page = [Listing(key, size, etag, _time(modified)) for key, size, etag, modified in objects]
            page.extend(Listing(prefix) for prefix in prefixes)
            yield from sorted(page, key=lambda entry: entry.key.encode())
            if token is None:
                return

    @property
    def transport(self) -> str:
        """What carries calls now: ``verbs``, ``shm``, ``tcp`` or ``http``."""
        return self._native.transport()

    def counters(self) -> dict[str, int]:
        """What became of your memory, since the client was made.

        ``zero_copy_transfers`` and ``zero_copy_bytes``: what an RDMA device moved from or to it, as it was granted; ``copied_bytes``:
        what was copied, once; ``registrations`` with a device; ``held_bytes``: what the client holds now.
        """
        return dict(self._native.counters())

    def release_registrations(self) -> None:
        """Lets go of memory that is kept registered for the next call; what a call works in stays until it is through."""
        self._native.release_registrations()

    def close(self) -> None:
        """Ends the connection. A second time does nothing."""
        self._native.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _given(name: str, value: str | None, variable: str) -> str:
    value = value or os.environ.get(variable)
    if not value:
        raise ValueError(f"{name} is needed: give it, or set {variable}")
    return value


def _as_memory(buffer: Any) -> Any:
    """An array whose dtype the buffer protocol has no word for, such as times, is as good as its bytes."""
    if hasattr(buffer, "__array_interface__"):
        np = _numpy.numpy()
        _numpy.refuse_masked(buffer)
        if isinstance(buffer, np.ndarray):
            if buffer.dtype.hasobject or buffer.dtype.kind == "T":
                raise TypeError(f"an array of dtype {buffer.dtype} holds references, not values: it is no memory")
            if buffer.flags.c_contiguous or buffer.flags.f_contiguous:
                return _numpy.as_bytes(buffer) if buffer.nbytes else bytearray()
    return buffer


def _object_info(told: Any) -> ObjectInfo:
    size, etag, modified, stored = told[:4]
    metadata = {name[len(META) :]: value for name, value in stored if name.startswith(META)}
    headers = {name: value for name, value in stored if not name.startswith(META)}
    return ObjectInfo(size, etag, _time(modified), metadata, headers)


def _time(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, timezone.utc)
