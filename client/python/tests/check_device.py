#!/usr/bin/env python3
"""The Python package over an RDMA device: that it works both ways, and that nothing is copied.

usage: check_device.py --tenfour PROGRAM --native LIBRARY --address ADDRESS:PORT [--timeout-scale FACTOR] [--only SUBSTRING]

In a virtual machine with Soft-RoCE, for instance:

    tools/with-rxe -- target/venv/bin/python client/python/tests/check_device.py --tenfour target/release/tenfour \
        --native target/release/deps/lib_native.so --address 10.77.0.1:9100 --timeout-scale 10
"""

import argparse
import random
import sys
import time

import numpy as np

import harness
from harness import check, eventually, is_let_go, raises

harness.CHECKS.clear()
BUCKET = "device"
LARGE = 32 << 20


def pattern(seed, size):
    return random.Random(seed).randbytes(size)


class World:
    """A cluster that serves at a device, boto3 over HTTP, and a client over the device."""

    def __init__(self, given):
        more = ("--timeout-scale", str(given.timeout_scale))
        self.cluster = harness.Cluster(given.tenfour, given.address, more)
        self.s3 = self.cluster.boto3(BUCKET, read_timeout=600)
        self.client = tenfour.Client(self.cluster.endpoints["verbs"], **self.cluster.keys)

    def by_boto3(self, key):
        return self.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()

    def counted(self, call, *arguments, **named):
        """A call, what it returns, and how the counters change."""
        before, began = self.client.counters(), time.monotonic()
        result = call(*arguments, **named)
        after = self.client.counters()
        changes = {name: after[name] - before[name] for name in after}
        print(f"       {call.__name__} {named}: {time.monotonic() - began:.2f} s, {changes}", flush=True)
        return result, changes

    def stop(self):
        self.client.close()
        self.cluster.stop()


@check
def small_and_large_both_ways(world):
    client = world.client
    assert client.transport == "verbs"
    for size in (1, 4096, 1 << 20):
        for mode in ("push", "pull"):
            key, data = f"{size}/{mode}", pattern(size, size)
            stored, changes = world.counted(client.put_object, BUCKET, key, data, mode=mode)
            assert stored.transport == "verbs"
            assert changes["copied_bytes"] == (size if size < 65_536 else 0), changes
            assert client.get_object(BUCKET, key) == data and world.by_boto3(key) == data
            into = bytearray(size)
            read, changes = world.counted(client.get_object_into, BUCKET, key, into)
            assert (read.count, read.transport) == (size, "verbs") and into == data
            assert changes["copied_bytes"] == (size if size < 65_536 else 0), changes
    client.release_registrations()


@check
def what_is_large_is_never_copied(world):
    client, data = world.client, np.frombuffer(pattern(1, LARGE), np.int64).reshape(1 << 10, -1)
    for mode in ("push", "pull"):
        stored, changes = world.counted(client.put_object_numpy, BUCKET, mode, data, mode=mode)
        assert stored.transport == "verbs"
        assert changes["copied_bytes"] == 0 and changes["zero_copy_bytes"] == LARGE, changes
        assert world.by_boto3(mode) == data.tobytes(), mode
    into = np.zeros_like(data)
    read, changes = world.counted(client.get_object_into, BUCKET, "push", into)
    assert (read.count, read.transport) == (LARGE, "verbs") and np.array_equal(into, data)
    assert changes["copied_bytes"] == 0 and changes["zero_copy_bytes"] == LARGE, changes
    back, changes = world.counted(client.get_object_numpy, BUCKET, "pull")
    assert back.dtype == data.dtype and back.shape == data.shape and np.array_equal(back, data)
    # The first piece, which also says what the rest is.
    assert changes["zero_copy_bytes"] == LARGE - 65_536, changes
    client.release_registrations()
    eventually("all memory is let go", lambda: client.counters()["held_bytes"] == 0)


@check
def memory_that_is_used_again_is_registered_once(world):
    client, source = world.client, bytearray(pattern(2, 1 << 20))
    _, first = world.counted(client.put_object, BUCKET, "again", source, mode="push")
    assert first["registrations"] == 1 and client.counters()["held_bytes"] == len(source)
    # The same memory, a part of it, and it as the target: all of it is known.
    for call in (
        lambda: client.put_object(BUCKET, "again", source, mode="push"),
        lambda: client.put_object(BUCKET, "part", memoryview(source)[4097:], mode="push"),
    ):
        assert world.counted(call)[1]["registrations"] == 0
    assert client.get_object(BUCKET, "part") == source[4097:]
    assert client.get_object_into(BUCKET, "again", source).count == len(source)
    # It is held so long, and no longer.
    raises(BufferError, source.append, 1)
    client.release_registrations()
    eventually("it is let go", lambda: is_let_go(source))
    client.put_object(BUCKET, "again", source, mode="push")
    raises(BufferError, source.append, 1)
    eventually("it is let go by itself", lambda: is_let_go(source), 60)


@check
def kept_memory_is_bounded(world):
    with tenfour.Client(world.cluster.endpoints["verbs"], kept_bytes=300_000, **world.cluster.keys) as client:
        sources = [bytearray(pattern(number, 100_000)) for number in range(5)]
        for number, source in enumerate(sources):
            client.put_object(BUCKET, f"bounded/{number}", source, mode="push")
            assert client.counters()["held_bytes"] <= 300_000
        assert client.counters()["held_bytes"] == 300_000
        client.put_object(BUCKET, "bounded/large", bytes(400_000), mode="push")
        eventually("more than may be kept is not", lambda: client.counters()["held_bytes"] <= 300_000)
        for number, source in enumerate(sources):
            assert client.get_object(BUCKET, f"bounded/{number}") == source


@check
def memory_that_may_only_be_read(world):
    data = pattern(3, 200_000)
    for mode in ("push", "pull"):
        _, changes = world.counted(world.client.put_object, BUCKET, "constant", data, mode=mode)
        assert changes["copied_bytes"] == 0 and changes["zero_copy_bytes"] == len(data), changes
        assert world.by_boto3("constant") == data
    raises(BufferError, world.client.get_object_into, BUCKET, "constant", data)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tenfour", required=True)
    parser.add_argument("--native")
    parser.add_argument("--address", required=True)
    parser.add_argument("--timeout-scale", type=float, default=1.0)
    parser.add_argument("--only", default="")
    given = parser.parse_args()
    harness.package(given.native)
    import tenfour

    tenfour.set_timeout_scale(given.timeout_scale)
    world = World(given)
    try:
        failed = harness.run(given.only, world)
    finally:
        world.stop()
    sys.exit(1 if failed else 0)
