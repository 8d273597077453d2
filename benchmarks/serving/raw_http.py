"""HTTP/1.1 by hand over one connection a request, so that also what no client library sends can be sent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

BOUNDARY = b"a-boundary-of-the-load-test"


@dataclass(frozen=True)
class Reply:
    """A server's answer; status 0 where it hung up without one."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body's JSON, or None."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


async def send(
    address: tuple[str, int], data: bytes | Sequence[bytes], timeout: float = 60.0, pause: float = 0.0
) -> Reply:
    """Sends bytes, with a pause between their parts, and reads the answer. Raises TimeoutError, ConnectionError."""
    reader, writer = await asyncio.open_connection(*address)
    try:
        parts = [data] if isinstance(data, bytes) else data
        receiving = asyncio.ensure_future(_receive(reader, to_head=parts[0].startswith(b"HEAD ")))
        sending = asyncio.ensure_future(_write(writer, parts, pause))
        try:
            return await asyncio.wait_for(receiving, timeout)
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
    finally:
        writer.close()


async def hang_up(address: tuple[str, int], data: bytes, seconds: float = 0.0) -> None:
    """Sends bytes and closes the connection without waiting for an answer."""
    _, writer = await asyncio.open_connection(*address)
    writer.write(data)
    await writer.drain()
    await asyncio.sleep(seconds)
    writer.close()


def request(
    path: str = "/v1/detect",
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
    method: str = "POST",
    host: str = "localhost",
) -> bytes:
    """A request whose connection is closed after its answer."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", "Connection: close", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def form(parts: Sequence[tuple[str, bytes]]) -> tuple[bytes, dict[str, str]]:
    """A multipart body of (name, content), image parts as files, and its headers."""
    body = b"".join(
        b"--" + BOUNDARY + b'\r\nContent-Disposition: form-data; name="' + name.encode() + b'"'
        + (b'; filename="picture"' if name == "image" else b"") + b"\r\n\r\n" + content + b"\r\n"
        for name, content in parts
    )  # fmt: skip
    return body + b"--" + BOUNDARY + b"--\r\n", {"Content-Type": f"multipart/form-data; boundary={BOUNDARY.decode()}"}


def detect(picture: bytes, prompt: str, deadline_ms: int | None = None) -> bytes:
    """A well-formed request for one picture."""
    parts = [("image", picture), ("prompt", prompt.encode())]
    return request("/v1/detect", *form(parts + ([] if deadline_ms is None else [("deadline_ms", b"%d" % deadline_ms)])))


async def _write(writer: asyncio.StreamWriter, parts: Sequence[bytes], pause: float) -> None:
    for number, part in enumerate(parts):
        if number and pause:
            await asyncio.sleep(pause)
        writer.write(part)
        await writer.drain()


async def _receive(reader: asyncio.StreamReader, to_head: bool) -> Reply:
    """To HEAD the body is whatever comes before the connection ends: it should be nothing."""
    head = await reader.readuntil(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
    length = None if to_head else headers.get("content-length")
    body = await (reader.read() if length is None else reader.readexactly(int(length)))
    return Reply(int(status.split()[1]), headers, body)
