"""Whether an ONNX file is self-contained: no data outside of it, no operators beyond the standard ones.

How it works: a walk over the protobuf bytes, because the onnx package is no dependency of the gateway. Every message of
the model in which a tensor or an operator can stand is visited, subgraphs, functions and sparse tensors included. Only
what is looked for is understood; whether the graph makes sense is for ONNX Runtime to say.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

STANDARD_DOMAINS = ("", "ai.onnx")
# Subgraphs within subgraphs; an encoder has none, and a crafted file must not exhaust the stack.
MOST_NESTED = 32

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class OnnxError(ValueError):
    """The file is not ONNX, or not self-contained; the message is one line."""


@dataclass(frozen=True)
class _Message:
    """Which fields of a protobuf message lead on, by number, and which end the walk."""

    inside: dict[int, str] = field(default_factory=dict)
    forbidden: dict[int, str] = field(default_factory=dict)
    domain: int | None = None


# Field numbers of onnx.proto3. `data_location` (14) is 1 for external tensors and may be stated as 0.
_MESSAGES = {
    "model": _Message({7: "graph", 8: "operator set", 20: "training", 25: "function"}),
    "operator set": _Message(domain=1),
    "training": _Message({1: "graph", 2: "graph"}),
    "graph": _Message({1: "node", 5: "tensor", 15: "sparse tensor"}),
    "function": _Message({7: "node", 9: "operator set", 11: "attribute"}),
    "node": _Message({5: "attribute"}, domain=7),
    "attribute": _Message(
        {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse tensor", 23: "sparse tensor"}
    ),
    "sparse tensor": _Message({1: "tensor", 2: "tensor"}),
    "tensor": _Message(forbidden={13: "data outside of the file"}),
}
_DATA_LOCATION = 14


def check_self_contained(model: bytes) -> None:
    """Pass, or raise `OnnxError` with what the file reaches for."""
    _walk("model", memoryview(model), 0)


def _walk(kind: str, message: memoryview, depth: int) -> None:
    if depth > MOST_NESTED:
        raise OnnxError("its graphs are nested too deeply")
    known = _MESSAGES[kind]
    for number, value in _fields(message):
        if number in known.forbidden or (kind == "tensor" and number == _DATA_LOCATION and value != 0):
            raise OnnxError(f"a tensor has {known.forbidden.get(number, 'data outside of the file')}")
        if isinstance(value, int):
            continue
        if number == known.domain and bytes(value).decode(errors="replace") not in STANDARD_DOMAINS:
            raise OnnxError(f"it uses operators of {bytes(value[:80]).decode(errors='replace')!r}")
        if number in known.inside:
            _walk(known.inside[number], value, depth + 1)


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Field number and value; numbers of fixed width come as 0, for nothing here reads them."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, position = _varint(message, position)
            yield number, value
        elif wire == _BYTES:
            size, position = _varint(message, position)
            if position + size > len(message):
                raise OnnxError("it is cut off")
            yield number, message[position : position + size]
            position += size
        elif wire in (_FIXED64, _FIXED32):
            position += 8 if wire == _FIXED64 else 4
            yield number, 0
        else:
            raise OnnxError("it is not protobuf")


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            raise OnnxError("it is cut off")
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise OnnxError("it is not protobuf")
