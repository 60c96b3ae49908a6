"""Blocks: what the explorer's page unpacks when it is looked at.

A block is a JSON object and numbers beside it, deflated. Unpacked it holds the length of the JSON
(32 bits, little-endian), the JSON, and the arrays that its key `arrays` lists as [name, type,
length]. Of each array all first bytes come first, then all second ones, and so on: the bytes of
one significance resemble each other, so that they deflate well.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

TYPES = {"int16": "<i2", "int32": "<i4", "float32": "<f4", "uint8": "u1"}
"""Types of arrays, as the page names them, and as they lie in a block."""


def pack(header: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None) -> bytes:
    """One block.

    Args:
        header: JSON-able; its key `arrays` is written here.
        arrays: flat ones of the types in `TYPES`.
    """
    arrays = arrays or {}
    listed = [[name, values.dtype.name, len(values)] for name, values in arrays.items()]
    text = json.dumps(
        {**header, "arrays": listed}, ensure_ascii=False, allow_nan=False, separators=(",", ":")
    ).encode("utf-8", "replace")
    planes = [_planes(values) for values in arrays.values()]
    return zlib.compress(b"".join([len(text).to_bytes(4, "little"), text, *planes]), 6)


def unpack(block: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The header and the arrays of a block."""
    content = zlib.decompress(block)
    end = 4 + int.from_bytes(content[:4], "little")
    header = json.loads(content[4:end])
    arrays = {}
    for name, kind, length in header.pop("arrays"):
        width = np.dtype(TYPES[kind]).itemsize
        planes = np.frombuffer(content, np.uint8, length * width, end).reshape(width, length)
        arrays[name] = np.ascontiguousarray(planes.T).reshape(-1).view(TYPES[kind])
        end += length * width
    return header, arrays


def _planes(values: np.ndarray) -> bytes:
    plain = np.ascontiguousarray(values.astype(TYPES[values.dtype.name]))
    return plain.view(np.uint8).reshape(len(plain), plain.itemsize).T.tobytes()
