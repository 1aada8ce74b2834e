#!/usr/bin/env python3
"""The Python package against a real cluster, on every transport of this machine and over HTTP alone, beside boto3 over HTTP.

usage: check_client.py --tenfour PROGRAM [--native LIBRARY] [--only SUBSTRING]

Starts a cluster of its own. Exit status 0 when every check passed.
"""

import argparse
import array
import ctypes
import mmap
import os
import random
import signal
import sys
import tempfile
import threading
import time

import numpy as np
from botocore.exceptions import ClientError

import check_arrays
import harness
from harness import Stopped, check, eventually, is_let_go, raises

harness.CHECKS.clear()
BUCKET = "python"
SIZES = (0, 1, 4096, 65_535, 65_536, 65_537, 1 << 20, (5 << 20) + 3)
MODES = ("auto", "push", "pull")


def pattern(seed, size):
    return random.Random(seed).randbytes(size)


class World:
    """A cluster, boto3, and a client for each transport."""

    def __init__(self, program):
        self.cluster = harness.Cluster(program)
        self.keys = self.cluster.keys
        self.s3 = self.cluster.boto3(BUCKET)
        self.clients = {name: self.client(name) for name in ("shm", "tcp", "http")}

    def client(self, name, **more):
        where = {"http": self.cluster.http} if name == "http" else {}
        endpoints = [] if name == "http" else [self.cluster.endpoints[name]]
        return tenfour.Client(endpoints, **{**self.keys, **where, **more})

    def by_boto3(self, key):
        return self.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()

    def each(self):
        return self.clients.items()

    def stop(self):
        for client in self.clients.values():
            client.close()
        self.cluster.stop()


@check
def bytes_in_bytes_out(world):
    for name, client in world.each():
        assert client.transport == name
        for size in SIZES:
            for mode in MODES:
                key, data = f"bytes/{name}/{size}/{mode}", pattern(size, size)
                stored = client.put_object(BUCKET, key, data, mode=mode)
                assert stored.transport == name and len(stored.etag) == 32, stored
                assert client.get_object(BUCKET, key) == data, key
                assert world.by_boto3(key) == data, key
                into = bytearray(size + 7)
                read = client.get_object_into(BUCKET, key, into)
                assert (read.count, read.object.size, read.object.etag) == (size, size, stored.etag)
                assert into == data + bytes(7), key
        counters = client.counters()
        assert counters["zero_copy_bytes"] == counters["registrations"] == 0
        assert counters["copied_bytes"] > sum(SIZES), counters
        eventually("all memory is let go", lambda client=client: client.counters()["held_bytes"] == 0)


@check
def what_others_stored_and_what_others_read(world):
    data = pattern(1, 3 << 20)
    world.s3.put_object(Bucket=BUCKET, Key="theirs", Body=data, Metadata={"who": "boto3"}, ContentType="text/x")
    for name, client in world.each():
        info = client.head_object(BUCKET, "theirs")
        assert (info.size, info.metadata, info.headers["content-type"]) == (len(data), {"who": "boto3"}, "text/x")
        assert abs(info.modified.timestamp() - time.time()) < 600
        assert client.get_object(BUCKET, "theirs") == data
        plain = client.get_object_numpy(BUCKET, "theirs")
        assert plain.dtype == np.uint8 and plain.shape == (len(data),) and plain.tobytes() == data
        client.put_object(BUCKET, f"ours/{name}", data, metadata={"Who": "tenfour"}, content_type="text/y")
        theirs = world.s3.head_object(Bucket=BUCKET, Key=f"ours/{name}")
        assert (theirs["Metadata"], theirs["ContentType"]) == ({"who": "tenfour"}, "text/y")


@check
def ranges_are_pythons(world):
    data = pattern(2, 300_000)
    for name, client in world.each():
        client.put_object(BUCKET, "ranged", data)
        for start, stop in ((0, 1), (0, None), (10, 20), (100, 200_000), (65_536, None), (299_999, None), (5, 10**9)):
            assert client.get_object(BUCKET, "ranged", start=start, stop=stop) == data[start:stop], (name, start)
            into = bytearray(len(data))
            read = client.get_object_into(BUCKET, "ranged", into, start=start, stop=stop)
            assert (read.start, into[: read.count]) == (start, data[start:stop]), (name, start)
        beyond = raises(tenfour.InvalidRequest, client.get_object, BUCKET, "ranged", start=300_000)
        assert beyond.code == "InvalidRange"
        for start, stop in ((0, 0), (5, 5), (5, 2)):
            for call in (client.get_object, lambda *of, **part: client.get_object_into(*of, bytearray(300_000), **part)):
                empty = raises(tenfour.InvalidRequest, call, BUCKET, "ranged", start=start, stop=stop)
                assert empty.code == "InvalidArgument", (name, start, stop, empty)


@check
def keys_are_taken_as_they_are(world):
    for name, client in world.each():
        client.put_object(BUCKET, "y", b"y")
        for key in ("x/../y", "x/..", "..", ".", "./y", "/y", "y/", "//", "%2e%2e/y", "a b+c?d#e&f=g"):
            client.put_object(BUCKET, key, key.encode())
            assert client.get_object(BUCKET, key) == key.encode(), (name, key)
            assert client.head_object(BUCKET, key).size == len(key), (name, key)
            assert client.get_object(BUCKET, "y") == b"y", (name, key)
            assert key in [entry.key for entry in client.list_objects(BUCKET)], (name, key)
            client.delete_object(BUCKET, key)
            raises(tenfour.NotFound, client.head_object, BUCKET, key)
        for bucket in ("..", ".", "", "a/b", "bucket?x"):
            refused = raises(tenfour.InvalidRequest, client.get_object, bucket, "y")
            assert refused.code == "InvalidBucketName", (name, bucket, refused)
        told = raises(tenfour.InvalidRequest, client.put_object, BUCKET, "y", b"", metadata={"a": "two\nlines"})
        assert told.code == "InvalidArgument", (name, told)
        client.put_object(BUCKET, "y", b"", metadata={"a": "ä  and  more"})
        assert client.head_object(BUCKET, "y").metadata == {"a": "ä  and  more"}, name


@check
def arrays_come_back_as_they_were(world):
    rng = np.random.default_rng(3)
    large = rng.random((300, 400))
    more = (("large", large), ("large in Fortran order", np.asfortranarray(large)), ("large, every second", large[::2]))
    for name, client in world.each():
        for what, stored in (*check_arrays.arrays(), *more):
            client.put_object_numpy(BUCKET, "array", stored, metadata={"note": "kept"})
            back = client.get_object_numpy(BUCKET, "array")
            try:
                check_arrays.same(back, stored)
            except AssertionError as error:
                raise AssertionError(f"{name}, {what}: {error}") from None
        assert client.head_object(BUCKET, "array").metadata["note"] == "kept"
        into = np.empty_like(np.asfortranarray(large))
        client.put_object_numpy(BUCKET, "array", np.asfortranarray(large))
        client.get_object_into(BUCKET, "array", into)
        assert np.array_equal(into, large) and world.by_boto3("array") == large.T.tobytes()
        times = np.empty(5, "M8[s]")
        client.put_object_numpy(BUCKET, "times", np.arange(5).astype("M8[s]"))
        client.get_object_into(BUCKET, "times", times)
        assert np.array_equal(times, np.arange(5).astype("M8[s]"))
        raises(TypeError, client.put_object_numpy, BUCKET, "array", np.array([None]))
        client.put_object(BUCKET, "lie", b"1234567", metadata={"numpy-dtype": '"<f8"', "numpy-shape": "1"})
        assert "7 bytes" in str(raises(ValueError, client.get_object_numpy, BUCKET, "lie"))


@check
def any_buffer_will_do(world):
    data = pattern(4, 100_000)
    for name, client in world.each():
        with tempfile.TemporaryFile() as file, mmap.mmap(-1, len(data)) as mapped:
            mapped[:] = data
            file.write(data)
            file.flush()
            sources = {
                "bytes": data,
                "bytearray": bytearray(data),
                "memoryview": memoryview(b"xx" + data + b"yy")[2:-2],
                "array": array.array("h", data),
                "mmap": mapped,
                "ctypes": (ctypes.c_char * len(data)).from_buffer_copy(data),
                "read-only mapping": np.memmap(file, np.float32, "r"),
                "numpy": np.frombuffer(data, ">i4").reshape(100, 250),
                "Fortran order": np.frombuffer(data, ">i4").reshape(100, 250, order="F"),
            }
            for what, source in sources.items():
                client.put_object(BUCKET, "buffer", source)
                assert client.get_object(BUCKET, "buffer") == data, (name, what)
            targets = {
                "bytearray": bytearray(len(data)),
                "memoryview": memoryview(bytearray(len(data) + 4))[2:-2],
                "array": array.array("h", bytes(len(data))),
                "mmap": mapped,
                "ctypes": (ctypes.c_char * len(data))(),
                "numpy": np.zeros((100, 250), ">i4"),
                "Fortran order": np.zeros((100, 250), ">i4", "F"),
            }
            for what, target in targets.items():
                memoryview(target.ravel("K") if isinstance(target, np.ndarray) else target).cast("B")[:10] = bytes(10)
                assert client.get_object_into(BUCKET, "buffer", target).count == len(data), what
                flat = target.ravel("K") if isinstance(target, np.ndarray) else target
                assert bytes(memoryview(flat).cast("B")) == data, (name, what)
            scalar = ctypes.c_uint32(0)
            client.put_object(BUCKET, "scalar", ctypes.c_uint32(7))
            client.get_object_into(BUCKET, "scalar", scalar)
            assert scalar.value == 7
            # Nothing holds on to a mapping that is to be closed.
            eventually("all memory is let go", lambda client=client: client.counters()["held_bytes"] == 0)


@check
def buffers_that_will_not_do_are_said_to(world):
    data = pattern(5, 200_000)
    for name, client in world.each():
        client.put_object(BUCKET, "whole", data)
        for buffer in (b"x" * 200_000, memoryview(data), np.frombuffer(data, np.uint8)):
            assert "read-only" in str(raises(BufferError, client.get_object_into, BUCKET, "whole", buffer))
        assert data == pattern(5, 200_000)
        for room in (0, 1, 100, 199_999):
            error = raises(tenfour.BufferTooSmall, client.get_object_into, BUCKET, "whole", bytearray(room))
            assert f"200000 bytes are to be read, the buffer has {room}" in str(error), (name, error)
        assert client.get_object_into(BUCKET, "whole", bytearray(99), start=1, stop=100).count == 99
        strided = np.zeros((10, 10))[:, ::2]
        assert "in one piece" in str(raises(BufferError, client.get_object_into, BUCKET, "whole", strided))
        assert "in one piece" in str(raises(BufferError, client.put_object, BUCKET, "whole", strided))
        for nothing in ("text", 5, None, [1, 2]):
            told = str(raises(TypeError, client.put_object, BUCKET, "whole", nothing))
            assert "buffer protocol" in told and type(nothing).__name__ in told, told
            raises(TypeError, client.get_object_into, BUCKET, "whole", nothing)
        raises(TypeError, client.put_object, BUCKET, "whole", np.array([None]))


@check
def conditions_hold(world):
    for name, client in world.each():
        key = f"conditions/{name}"
        first = client.put_object(BUCKET, key, b"first", only_if_absent=True)
        assert raises(tenfour.PreconditionFailed, client.put_object, BUCKET, key, b"x", only_if_absent=True).code
        raises(tenfour.PreconditionFailed, client.put_object, BUCKET, key, b"x", if_match="0" * 32)
        second = client.put_object(BUCKET, key, b"second", if_match=first.etag)
        assert client.get_object(BUCKET, key, if_match=f'"{second.etag}"') == b"second"
        raises(tenfour.PreconditionFailed, client.get_object, BUCKET, key, if_match=first.etag)
        raises(tenfour.PreconditionFailed, client.get_object_into, BUCKET, key, bytearray(9), if_match=first.etag)
        raises(tenfour.PreconditionFailed, client.delete_object, BUCKET, key, if_match=first.etag)
        client.delete_object(BUCKET, key, if_match=second.etag)
        client.delete_object(BUCKET, key)
        raises(ValueError, client.get_object, BUCKET, key, if_match="not an etag")
        raises(ValueError, client.put_object, BUCKET, key, b"", if_match=first.etag, only_if_absent=True)
        raises(ValueError, client.put_object, BUCKET, key, b"", mode="carrier pigeon")


@check
def errors_say_what_they_are(world):
    for name, client in world.each():
        missing = raises(tenfour.NotFound, client.get_object, BUCKET, "missing")
        assert (missing.code, missing.is_retryable) == ("NoSuchKey", False), (name, missing)
        assert isinstance(missing, tenfour.Error)
        for call in (client.head_object, client.get_object_numpy):
            raises(tenfour.NotFound, call, BUCKET, "missing")
        raises(tenfour.NotFound, client.get_object_into, BUCKET, "missing", bytearray(5))
        assert raises(tenfour.NotFound, client.put_object, "no-such-bucket", "k", b"").code == "NoSuchBucket"
        raises(tenfour.NotFound, lambda client=client: list(client.list_objects("no-such-bucket")))
        raises(tenfour.InvalidRequest, client.put_object, BUCKET, "", b"")
        raises(TypeError, client.get_object, BUCKET, 5)
        raises(OverflowError, client.get_object, BUCKET, "k", start=-1)
        closed = world.client(name)
        closed.close()
        closed.close()
        assert "closed" in str(raises(tenfour.InvalidRequest, closed.get_object, BUCKET, "k"))
    for name in ("shm", "tcp"):
        raises(tenfour.AccessDenied, world.client, name, access_key="nobody")
        raises(tenfour.AccessDenied, world.client, name, secret_key="wrong")
    stranger = world.client("http", secret_key="wrong")
    raises(tenfour.AccessDenied, stranger.get_object, BUCKET, "k")


@check
def http_is_taken_only_when_it_was_named(world):
    nowhere = f"tcp:127.0.0.1:{harness.free_port()}"
    raises(tenfour.Unreachable, tenfour.Client, nowhere, **world.keys)
    with tenfour.Client([nowhere], http=world.cluster.http, **world.keys) as client:
        assert client.transport == "http"
        assert client.put_object(BUCKET, "fallback", b"x").transport == "http"
    both = [nowhere, world.cluster.endpoints["shm"]]
    with tenfour.Client(both, http=world.cluster.http, **world.keys) as client:
        assert client.transport == "shm"


@check
def keys_are_listed(world):
    names = [f"list/{folder}/{number:02}" for folder in ("a", "b", "ä") for number in range(12)]
    for key in reversed(names):
        world.clients["tcp"].put_object(BUCKET, key, key.encode())
    for name, client in world.each():
        listed = list(client.list_objects(BUCKET, "list/"))
        assert [entry.key for entry in listed] == sorted(names, key=str.encode), name
        assert all(entry.size == len(entry.key.encode()) and len(entry.etag) == 32 for entry in listed)
        rolled = list(client.list_objects(BUCKET, "list/", delimiter="/"))
        assert [(entry.key, entry.is_prefix) for entry in rolled] == [(f"list/{f}/", True) for f in "abä"]
        after = [entry.key for entry in client.list_objects(BUCKET, "list/b", start_after="list/b/09")]
        assert after == ["list/b/10", "list/b/11"]
        pages, client_module.PAGE_KEYS = client_module.PAGE_KEYS, 5
        try:
            assert [entry.key for entry in client.list_objects(BUCKET, "list/")] == sorted(names, key=str.encode)
        finally:
            client_module.PAGE_KEYS = pages
    for key in names:
        client.delete_object(BUCKET, key)
    assert list(client.list_objects(BUCKET, "list/")) == []


@check
def waiting_leaves_other_threads_alone(world):
    data = pattern(6, 1 << 20)
    for name, client in world.each():
        client.put_object(BUCKET, "waited", data)
        got = []
        waiting = threading.Thread(target=lambda client=client: got.append(client.get_object(BUCKET, "waited")))
        with Stopped(world.cluster.gateway()):
            waiting.start()
            steps, until = 0, time.monotonic() + 0.5
            while time.monotonic() < until:
                steps += 1
            assert not got and waiting.is_alive()
        assert steps > 10_000, f"{name}: another thread got {steps} steps done in half a second"
        waiting.join(60)
        assert got == [data], name


@check
def one_client_serves_many_threads(world):
    for name, client in world.each():
        failed = []

        def work(number, name=name, client=client, failed=failed):
            try:
                for round in range(6):
                    data = pattern(number * 100 + round, 1 + number * 50_000)
                    client.put_object(BUCKET, f"threads/{name}/{number}", data)
                    into = bytearray(len(data))
                    client.get_object_into(BUCKET, f"threads/{name}/{number}", into)
                    assert into == data
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert not failed, (name, failed)


@check
def an_interrupted_call_leaves_memory_alone(world):
    size = 8 << 20
    for name in ("shm", "tcp", "http"):
        with world.client(name) as client:
            client.put_object(BUCKET, "interrupted", pattern(7, size))
            into = bytearray(b"\xee" * size)
            with Stopped(world.cluster.gateway()):
                took = interrupted(client.get_object_into, BUCKET, "interrupted", into)
                assert took < 20, (name, took)
                seen = bytes(into)
            # The gateway goes on, and finds nothing that it may write to.
            time.sleep(0.5)
            assert into == seen, name
            assert client.get_object(BUCKET, "interrupted") == pattern(7, size)
            eventually("the buffer is let go", lambda into=into: is_let_go(into))
            source = bytearray(pattern(8, size))
            with Stopped(world.cluster.gateway()):
                interrupted(client.put_object, BUCKET, "interrupted/put", source)
                if name == "tcp":
                    # The gateway may still read it: it was granted.
                    assert client.counters()["held_bytes"] == size
                    raises(BufferError, source.append, 1)
            eventually("the source is let go", lambda it=source: is_let_go(it))


def interrupted(call, *arguments):
    """Interrupts a call after half a second; how long it took to end."""
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    began = time.monotonic()
    raises(KeyboardInterrupt, call, *arguments)
    return time.monotonic() - began


@check
def a_client_that_is_closed_during_a_call_ends_after_it(world):
    data = pattern(9, 1 << 20)
    own = lambda: [task for task in os.listdir("/proc/self/task") if is_of_a_client(task)]
    for name in ("shm", "tcp", "http"):
        before = len(own())
        client, got = world.client(name), []
        client.put_object(BUCKET, "closed", data)
        waiting = threading.Thread(target=lambda client=client, got=got: got.append(client.get_object(BUCKET, "closed")))
        with Stopped(world.cluster.gateway()):
            waiting.start()
            time.sleep(0.3)
            client.close()
            assert "closed" in str(raises(tenfour.InvalidRequest, client.get_object, BUCKET, "closed"))
            assert waiting.is_alive()
        waiting.join(60)
        assert got == [data], name
        eventually("its threads end", lambda before=before: len(own()) == before)


def is_of_a_client(task):
    try:
        with open(f"/proc/self/task/{task}/comm") as name:
            return name.read().startswith("tenfour")
    except OSError:
        return False


@check
def a_signals_handler_may_make_calls(world):
    for name, client in world.each():
        client.put_object(BUCKET, "signalled", b"x")
        seen = []
        before = signal.signal(signal.SIGALRM, lambda *_: seen.append(client.head_object(BUCKET, "signalled").size))
        gateway = Stopped(world.cluster.gateway())
        try:
            with gateway:
                threading.Timer(0.5, os.kill, (gateway.pid, signal.SIGCONT)).start()
                signal.setitimer(signal.ITIMER_REAL, 0.1)
                assert client.get_object(BUCKET, "signalled") == b"x"
        finally:
            signal.signal(signal.SIGALRM, before)
        assert seen == [1], (name, seen)


@check
def a_broken_connection_is_made_anew(world):
    for name in ("shm", "tcp"):
        with world.client(name) as client:
            client.put_object(BUCKET, "before", b"before")
            os.kill(world.cluster.gateway(), signal.SIGKILL)
            eventually("the gateway is back", lambda client=client: readable(client), 60)
            assert client.put_object(BUCKET, "after", b"after").transport == name
    world.clients = {name: world.client(name) for name in world.clients}


def readable(client):
    try:
        return client.get_object(BUCKET, "before") == b"before"
    except tenfour.Error as error:
        assert error.is_retryable, error
        return False


@check
def a_child_after_a_fork_is_told(world):
    client = world.client("shm")
    child = os.fork()
    if child == 0:
        try:
            ok = "fork" in str(raises(tenfour.InvalidRequest, client.get_object, BUCKET, "k"))
            client.close()
            with world.client("tcp") as own:
                own.put_object(BUCKET, "from a child", b"x")
            os._exit(0 if ok else 2)
        except BaseException as error:
            print(f"in the child: {error!r}", flush=True)
            os._exit(3)
    assert os.waitpid(child, 0)[1] == 0
    assert client.get_object(BUCKET, "from a child") == b"x"
    client.close()


@check
def clients_leave_nothing_behind(world):
    threads = lambda: len(os.listdir("/proc/self/task"))
    files = lambda: len(os.listdir("/proc/self/fd"))
    before = threads(), files()
    for round in range(10):
        for name in ("shm", "tcp", "http"):
            client = world.client(name)
            client.put_object(BUCKET, "short", b"x" * 100_000)
            if round % 2:
                client.close()
            del client
    eventually("threads and files are as before", lambda: (threads() <= before[0], files() <= before[1]) == (True, True))


def is_refused(status, call, **named):
    try:
        call(**named)
    except ClientError as error:
        return error.response["ResponseMetadata"]["HTTPStatusCode"] == status
    return False


@check
def deleted_is_gone_for_all(world):
    for name, client in world.each():
        client.put_object(BUCKET, f"deleted/{name}", b"x")
        client.delete_object(BUCKET, f"deleted/{name}")
        assert is_refused(404, world.s3.get_object, Bucket=BUCKET, Key=f"deleted/{name}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tenfour", required=True)
    parser.add_argument("--native")
    parser.add_argument("--only", default="")
    given = parser.parse_args()
    harness.package(given.native)
    import tenfour
    import tenfour._client as client_module

    world = World(given.tenfour)
    try:
        failed = harness.run(given.only, world)
    finally:
        world.stop()
    sys.exit(1 if failed else 0)
