"""As much of HTTP/1.1 as the admin port speaks: one request a connection."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus

MAX_HEAD_BYTES = 16 * 1024
TEXT = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Request:
    """The head of a request."""

    method: str
    path: str
    """Without the query."""
    headers: Mapping[str, str]
    """By name in lower case; values of a name that came twice are joined with commas."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole reply."""

    status: HTTPStatus
    content_type: str
    body: bytes


async def read_request(reader: asyncio.StreamReader) -> Request:
    """The next request, up to the empty line behind its headers.

    Raises:
        asyncio.IncompleteReadError: The connection ended first.
        asyncio.LimitOverrunError: The head is longer than the reader's limit.
    """
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
    words = first.split(" ")
    headers: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        name, value = name.lower(), value.strip()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    target = words[1] if len(words) > 1 else ""
    return Request(words[0], target.partition("?")[0], headers)


def write_head(
    writer: asyncio.StreamWriter, status: HTTPStatus, headers: Mapping[str, str]
) -> None:
    """Write the head of a reply, after which the connection closes."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"HTTP/1.1 {status.value} {status.phrase}\r\n{lines}Connection: close\r\n\r\n"
    writer.write(head.encode("latin-1"))


def write_reply(
    writer: asyncio.StreamWriter,
    reply: Reply,
    *,
    with_body: bool,
    headers: Mapping[str, str] | None = None,
) -> None:
    """Write a whole reply; of one to HEAD the head alone."""
    about = {"Content-Type": reply.content_type, "Content-Length": str(len(reply.body))}
    write_head(writer, reply.status, about | dict(headers or {}))
    if with_body:
        writer.write(reply.body)


def write_chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Write a part of a body in chunked coding; empty data ends the body."""
    writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")


def text_reply(status: HTTPStatus) -> Reply:
    """The status in words."""
    return Reply(status, TEXT, f"{status.phrase}\n".encode())
