"""HTTP/2 as no client speaks it: frames that are cut, lie about themselves or come out of order."""

from __future__ import annotations

import random
import socket
import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END_STREAM, END_HEADERS = 1, 4
READ_SECONDS = 0.1


def frame(kind: int, payload: bytes = b"", *, stream: int = 0, flags: int = 0) -> bytes:
    """A frame with a true head (RFC 9113, 4.1)."""
    return len(payload).to_bytes(3, "big") + struct.pack(">BBI", kind, flags, stream) + payload


def headers(path: str, *more: tuple[str, str]) -> bytes:
    """A header block of literals that are not indexed (RFC 7541, 6.2.2)."""
    fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        *more,
    ]
    return b"".join(b"\0" + _string(name) + _string(value) for name, value in fields)


def _string(text: str) -> bytes:
    data = text.encode("latin-1")
    assert len(data) < 127
    return bytes([len(data)]) + data


def grpc_message(data: bytes, *, length: int | None = None, compressed: int = 0) -> bytes:
    """With a prefix that may lie."""
    return struct.pack(">BI", compressed, len(data) if length is None else length) + data


def call_that_is_no_text() -> bytes:
    """A whole call, right but for its path, which is no UTF-8."""
    data = PREFACE + frame(SETTINGS)
    call = headers("/headstream.v1.Emb\xe5ddingsService/Embed")
    data += frame(HEADERS, call, stream=1, flags=END_HEADERS)
    return data + frame(DATA, grpc_message(b""), stream=1, flags=END_STREAM)


UNIMPLEMENTED = b"grpc-status\x0212"
"""As it stands in the answer's header block."""


def conversation(rng: random.Random, path: str, request: bytes) -> bytes:
    """What a client sends before it listens, somewhere wrong."""
    call = headers(path)
    start = PREFACE + frame(SETTINGS)
    opened = start + frame(HEADERS, call, stream=1, flags=END_HEADERS)
    whole = opened + frame(DATA, grpc_message(request), stream=1, flags=END_STREAM)
    bad_headers = [
        ("grpc-timeout", rng.choice(["", "1", "-1S", "99999999999H", "xS", "1" * 100])),
        ("grpc-encoding", rng.choice(["gzip", "none", "", "zstd"])),
        ("content-length", "-1"),
        ("headstream-\0", "x"),
        ("Upper", "case"),
        (":late", "x"),
        ("authorization", "\xff\xfe"),
        ("grpc-trace-bin", "!!!"),
    ]
    lies = [
        frame(DATA, grpc_message(request, length=2**32 - 1), stream=1, flags=END_STREAM),
        frame(DATA, grpc_message(request, length=len(request) + 1), stream=1, flags=END_STREAM),
        frame(DATA, grpc_message(request, compressed=1), stream=1, flags=END_STREAM),
        frame(DATA, grpc_message(request, compressed=7), stream=1, flags=END_STREAM),
        frame(DATA, grpc_message(request)[:3], stream=1, flags=END_STREAM),
        frame(DATA, grpc_message(request) * 3, stream=1, flags=END_STREAM),
        frame(DATA, b"\xff" * 20_000, stream=1),  # larger than a frame may be
        frame(RST, b"\0\0\0\x08", stream=1),
        frame(RST, b"\0", stream=1),
        frame(WINDOW, b"\0\0\0\0", stream=1),
        frame(WINDOW, b"\x7f\xff\xff\xff", stream=1) * 3,
        frame(SETTINGS, b"\0\x04\xff\xff\xff\xff"),
        frame(SETTINGS, b"\0\x05\0\0\0\1"),
        frame(SETTINGS, b"\0" * 5),
        frame(PING, b"\0" * 8) * 200,
        frame(PUSH, b"\0\0\0\x02" + call, stream=1),
        frame(GOAWAY, b"\0" * 8),
        frame(CONTINUATION, call, stream=1),
        frame(DATA, b"x", stream=0),
        frame(DATA, b"x", stream=2),
        frame(HEADERS, b"\xff" * 50, stream=3, flags=END_HEADERS),
        frame(
            rng.randrange(256), rng.randbytes(30), stream=rng.randrange(9), flags=rng.randrange(256)
        ),
    ]
    cut = bytearray(whole)
    cut[rng.randrange(len(cut))] ^= 1 << rng.randrange(8)
    late = headers(path, rng.choice(bad_headers))
    choices = [
        rng.randbytes(rng.randrange(1, 300)),
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        start + rng.randbytes(200),
        whole[: rng.randrange(len(whole))],
        bytes(cut),
        opened + rng.choice(lies),
        opened + rng.choice(lies) + rng.choice(lies),
        start + rng.choice(lies) + whole[len(start) :],
        start + frame(HEADERS, call, stream=1) + frame(CONTINUATION, b"", stream=1) * 500,
        start + frame(HEADERS, late, stream=1, flags=END_HEADERS) + whole[len(opened) :],
        start
        + b"".join(  # opened and left, again and again
            frame(HEADERS, call, stream=number, flags=END_HEADERS)
            + frame(RST, b"\0\0\0\x08", stream=number)
            for number in range(1, 201, 2)
        ),
    ]
    return rng.choice(choices)


def say(address: str, data: bytes, until: bytes | None = None) -> bytes:
    """Send it and listen for a while, or until this is heard."""
    host, _, port = address.rpartition(":")
    heard = b""
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        try:
            connection.sendall(data)
            connection.settimeout(READ_SECONDS if until is None else 20)
            while (until is None or until not in heard) and (part := connection.recv(65536)):
                heard += part
        except (TimeoutError, ConnectionError):
            pass
    return heard
