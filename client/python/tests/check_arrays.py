#!/usr/bin/env python3
"""What arrays become and what becomes arrays again, without a cluster; and that importing the package needs no NumPy.

usage: check_arrays.py [--native LIBRARY] [--only SUBSTRING]
"""

import argparse
import subprocess
import sys

import numpy as np

import harness
from harness import check, raises


def arrays():
    """Arrays of every kind, by a name for each."""
    rng = np.random.default_rng(10)
    for code in "?bBhHiIlLqQefdFD":
        yield f"dtype {code}", rng.integers(0, 2, (3, 4)).astype(code)
    for text in (">i4", ">f8", "<U7", "S5", "V3", "M8[ns]", "m8[25s]", ">M8[us]"):
        yield f"dtype {text}", np.zeros((2, 5), text)
    fields = [("name", "S4"), ("place", "<f4", (2, 3)), ("inner", [("a", "<i2"), ("b", ">u8", (2,))])]
    yield "a structure", np.zeros(7, fields)
    yield "an aligned structure", np.zeros((2, 2), np.dtype([("a", "i1"), ("b", "f8"), ("c", "i2")], align=True))
    yield "a structure with a title", np.zeros(2, [(("what it is", "x"), "f4"), ("y", "f4")])
    base = rng.random((4, 5, 6))
    yield "C order", base
    yield "Fortran order", np.asfortranarray(base)
    yield "one dimension", base.reshape(-1)
    yield "no dimension", np.array(3.5)
    yield "nothing", np.empty((0,))
    yield "nothing of a shape", np.empty((3, 0, 2), np.int16)
    yield "nothing in Fortran order", np.empty((3, 0, 2), np.int16, "F")
    yield "a transposed array", base.T
    yield "every second", base[::2]
    yield "backwards", base[::-1]
    yield "broadcast", np.broadcast_to(base[0], (3, 5, 6))
    yield "a part of each row", base[:, :, 1:3]
    still = base.copy()
    still.flags.writeable = False
    yield "read-only", still
    yield "a matrix", np.matrix([[1, 2], [3, 4]])
    yield "unaligned", np.frombuffer(b"x" + bytes(range(32)), np.uint8)[1:].view("<f8")


def same(back, array):
    assert back.dtype == array.dtype, (back.dtype, array.dtype)
    assert back.shape == array.shape, (back.shape, array.shape)
    assert back.tobytes() == array.tobytes()
    for order in ("c_contiguous", "f_contiguous"):
        if getattr(array.flags, order) and not array.flags.c_contiguous:
            assert getattr(back.flags, order), order


@check
def every_array_is_restored(numpy_part):
    for name, array in arrays():
        piece, metadata = numpy_part.describe(array)
        stored = bytes(memoryview(numpy_part.as_bytes(piece)))
        assert len(stored) == array.nbytes, name
        assert all(text.isascii() and text.isprintable() for text in metadata.values()), name
        back, memory = numpy_part.restore(metadata, len(stored))
        memory[:] = np.frombuffer(stored, np.uint8)
        try:
            same(back, array)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from None
        assert back.flags.writeable and back.flags.owndata


@check
def what_lies_in_one_piece_is_not_copied(numpy_part):
    base = np.arange(24.0).reshape(2, 3, 4)
    for array in (base, np.asfortranarray(base), base.T, base[1:], base.view("V8")):
        piece, _ = numpy_part.describe(array)
        assert np.shares_memory(piece, array) and np.shares_memory(numpy_part.as_bytes(piece), array)


@check
def what_holds_references_is_refused(numpy_part):
    refused = [np.array([1, "two", None], object), np.zeros(2, [("a", "i4"), ("b", "O")])]
    if hasattr(np.dtypes, "StringDType"):
        refused.append(np.array(["a", "b"], np.dtypes.StringDType()))
    for array in refused:
        assert "references" in str(raises(TypeError, numpy_part.describe, array))
    for code in "gG":
        for array in (np.zeros(2, code), np.zeros(2, [("a", "i4"), ("b", code, (2,))])):
            assert "machine" in str(raises(TypeError, numpy_part.describe, array))
    assert "masked" in str(raises(TypeError, numpy_part.describe, np.ma.masked_array([1, 2], [0, 1])))
    raises(TypeError, numpy_part.describe, np.empty(3, np.dtype([])))


@check
def what_is_stored_is_not_trusted(numpy_part):
    good = {"numpy-dtype": '"<f8"', "numpy-shape": "2,3", "numpy-order": "C"}
    assert numpy_part.restore(good, 48)[0].shape == (2, 3)
    for name, value in (
        ("numpy-dtype", '"|O"'),
        ("numpy-dtype", '[["a", "<i4"], ["b", "|O"]]'),
        ("numpy-dtype", '{"name": "object"}'),
        ("numpy-dtype", '"<f16"'),
        ("numpy-dtype", '[["a", "<i4"], ["b", "<c32", [2]]]'),
        ("numpy-dtype", '"f8,f8"'),
        ("numpy-dtype", '"no such type"'),
        ("numpy-dtype", '{"name": "__import__(0)"}'),
        ("numpy-dtype", "<f8"),
        ("numpy-dtype", "[" * 5000),
        ("numpy-dtype", '{"other": 1}'),
        ("numpy-dtype", "[[1, 2, 3, 4]]"),
        ("numpy-shape", "2,4"),
        ("numpy-shape", "-2,-3"),
        ("numpy-shape", "two"),
        ("numpy-shape", ",".join("1" * 65)),
        ("numpy-shape", ""),
        ("numpy-order", "A"),
    ):
        raises(ValueError, numpy_part.restore, {**good, name: value}, 48)
    raises(ValueError, numpy_part.restore, {**good, "numpy-shape": f"0,{10**30}"}, 0)


@check
def without_a_description_it_is_bytes(numpy_part):
    array, memory = numpy_part.restore({"other": "x"}, 5)
    assert array is memory and array.dtype == np.uint8 and array.shape == (5,)


@check
def importing_needs_no_numpy(_):
    code = "import sys; sys.modules['numpy'] = None; import tenfour; print(sorted(tenfour.transports()))"
    told = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path[:1]!r}; {code}"], capture_output=True, text=True
    )
    assert told.stdout.strip() == "['shm', 'tcp', 'verbs']", told


@check
def arguments_that_make_no_sense_are_said_to(_):
    import tenfour

    keys = {"access_key": "a", "secret_key": "b"}
    raises(ValueError, tenfour.Client, **keys)
    assert "not a fabric endpoint" in str(raises(ValueError, tenfour.Client, "127.0.0.1:9100", **keys))
    raises(ValueError, tenfour.Client, http="http://127.0.0.1:1", access_key="", secret_key="")
    raises(tenfour.InvalidRequest, tenfour.Client, http="nonsense", **keys)
    raises(ValueError, tenfour.Client, http="http://127.0.0.1:1", answer_timeout=-1.0, **keys)
    assert "65536" in str(raises(ValueError, tenfour.Client, http="http://127.0.0.1:1", pool_bytes=65_535, **keys))
    assert "https" in str(raises(tenfour.InvalidRequest, tenfour.Client, http="https://127.0.0.1:1", **keys))
    client = tenfour.Client(http="http://127.0.0.1:1", attempts=1, **keys)
    raises(tenfour.Unreachable, client.put_object, "bucket", "k", b"nobody heard of it")
    assert "masked" in str(raises(TypeError, client.put_object, "bucket", "k", np.ma.masked_array([1, 2], [0, 1])))
    raises(ValueError, tenfour.set_timeout_scale, 0.0)
    nobody = raises(tenfour.Unreachable, tenfour.Client, f"tcp:127.0.0.1:{harness.free_port()}", **keys)
    assert nobody.is_retryable and nobody.code is None
    assert issubclass(tenfour.BufferTooSmall, ValueError) and issubclass(tenfour.BufferTooSmall, tenfour.Error)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--native")
    parser.add_argument("--only", default="")
    given = parser.parse_args()
    harness.package(given.native)
    from tenfour import _numpy

    sys.exit(1 if harness.run(given.only, _numpy) else 0)
