"""NumPy arrays as objects: the bytes of the array as they lie in memory, and beside them what they mean.

Three entries of user metadata say it: ``numpy-dtype`` (NumPy's own description of a dtype, as JSON), ``numpy-shape`` (comma-separated)
and ``numpy-order`` (``C`` or ``F``). Whoever reads the object by other means finds the plain bytes.

What comes back from a store is not trusted: a dtype is never evaluated or unpickled, one that holds references is refused, and shape and
size must agree before memory is made.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

__all__ = ["as_bytes", "describe", "refuse_masked", "restore"]

DTYPE, SHAPE, ORDER = "numpy-dtype", "numpy-shape", "numpy-order"
DIMENSIONS_MAX = 64
# Byte order, kind, length, and the unit of a time; names of an extension's types.
PLAIN = re.compile(r"[<>|=]?[A-Za-z][0-9]*(\[[0-9A-Za-z]+\])?")
NAMED = re.compile(r"[A-Za-z0-9_]+")


def numpy() -> Any:
    try:
        import numpy
    except ModuleNotFoundError as missing:
        raise ModuleNotFoundError("this needs NumPy: pip install 'tenfour[numpy]'", name="numpy") from missing
    return numpy


def describe(array: Any) -> tuple[Any, dict[str, str]]:
    """An array of the same elements in one piece, and the metadata for it. Copies only what is not in one piece."""
    np = numpy()
    refuse_masked(array)
    array = np.asarray(array)
    described = _describe_dtype(array.dtype)
    if array.flags.c_contiguous:
        order = "C"
    elif array.flags.f_contiguous:
        order = "F"
    else:
        array, order = np.ascontiguousarray(array), "C"
    shape = ",".join(str(length) for length in array.shape)
    return array, {DTYPE: described, SHAPE: shape, ORDER: order}


def refuse_masked(array: Any) -> None:
    if isinstance(array, numpy().ma.MaskedArray):
        raise TypeError("a masked array is two arrays: store its data and its mask")


def as_bytes(array: Any) -> Any:
    """The memory of an array in one piece, as bytes in the order in which they lie: a view, no copy."""
    np = numpy()
    if array.nbytes == 0:
        return np.empty(0, np.uint8)
    flat = array if array.flags.c_contiguous else array.T
    return flat.reshape(-1).view(np.uint8)


def restore(metadata: Mapping[str, str], size: int) -> tuple[Any, Any]:
    """An empty array as the metadata describes it, and its memory as bytes. Without a description: ``size`` numbers of 8 bits."""
    np = numpy()
    if DTYPE not in metadata:
        array = np.empty(size, np.uint8)
        return array, array
    dtype = _restore_dtype(metadata[DTYPE])
    shape = _restore_shape(metadata.get(SHAPE, ""))
    order = metadata.get(ORDER, "C")
    if order not in ("C", "F"):
        raise ValueError(f"the stored order {order!r} is neither C nor F")
    if math.prod(shape) * dtype.itemsize != size:
        raise ValueError(f"the object has {size} bytes, which is no array of shape {shape} and dtype {dtype}")
    array = np.empty(shape, dtype, order)
    return array, as_bytes(array)


def _describe_dtype(dtype: Any) -> str:
    np = numpy()
    if dtype.hasobject or dtype.kind == "T":
        raise TypeError(
            f"arrays of dtype {dtype} hold references, not values, and cannot be stored: "
            "convert them first, for instance to numbers or to fixed-width strings"
        )
    if dtype.itemsize == 0:
        raise TypeError(f"elements of dtype {dtype} have no bytes: there is nothing to store")
    if dtype.type.__module__.split(".")[0] == "numpy":
        description = np.lib.format.dtype_to_descr(dtype)
    else:
        # An extension's own, such as bfloat16: it is known by its name wherever the extension is imported.
        description = {"name": dtype.name}
    if _is_of_one_machine(dtype):
        raise TypeError(
            f"elements of dtype {dtype} are other numbers on another kind of machine: convert them first, for instance to float64"
        )
    text = json.dumps(description)
    if _restore_dtype(text) != dtype:
        raise TypeError(f"dtype {dtype} cannot be restored from a description: convert the array first")
    return text


def _restore_dtype(text: str) -> Any:
    np = numpy()
    try:
        described = json.loads(text)
        if isinstance(described, dict):
            dtype = np.dtype(_matching(NAMED, described["name"]))
        else:
            dtype = np.lib.format.descr_to_dtype(_tuples(described))
    except (ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
        raise ValueError(f"the stored dtype {text!r} is not known here: {error}") from error
    if dtype.hasobject or dtype.kind == "T":
        raise ValueError(f"the stored dtype {text!r} holds references: it is not restored")
    if _is_of_one_machine(dtype):
        raise ValueError(f"the stored dtype {text!r} is another on each kind of machine: it is not restored")
    return dtype


def _is_of_one_machine(dtype: Any) -> bool:
    """Whether it holds floating-point numbers of more than 64 bits, which each kind of processor has in a way of its own."""
    base = dtype.base
    if base.fields:
        return any(_is_of_one_machine(inner[0]) for inner in base.fields.values())
    return (base.kind == "f" and base.itemsize > 8) or (base.kind == "c" and base.itemsize > 16)


def _matching(pattern: re.Pattern[str], text: Any) -> str:
    if not isinstance(text, str) or pattern.fullmatch(text) is None:
        raise ValueError(f"{text!r} is no type")
    return text


def _tuples(described: Any) -> Any:
    """JSON knows no tuples: the fields of a structure are some, and so is a type with a shape."""
    if not isinstance(described, list):
        return _matching(PLAIN, described)
    if all(isinstance(field, list) for field in described):
        return [_field(field) for field in described]
    inner, shape = described
    return (_tuples(inner), tuple(shape))


def _field(field: list[Any]) -> tuple[Any, ...]:
    name, inner, *shape = field
    name = tuple(name) if isinstance(name, list) else name
    return (name, _tuples(inner), *(tuple(lengths) for lengths in shape))


def _restore_shape(text: str) -> tuple[int, ...]:
    try:
        shape = tuple(int(length) for length in text.split(",")) if text else ()
    except ValueError as error:
        raise ValueError(f"the stored shape {text!r} is none") from error
    if len(shape) > DIMENSIONS_MAX or any(length < 0 for length in shape):
        raise ValueError(f"the stored shape {text!r} is none")
    return shape
