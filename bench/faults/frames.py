"""Just enough of HTTP/2 (RFC 9113) and of gRPC over it to see each message of a session go by, and to change it."""

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client says first."""

DATA, RESET = 0x0, 0x3
END_STREAM = 0x1
MOST_PAYLOAD = 16_384
"""Bytes in a frame, unless a peer allows more."""

_HEADER, _PREFIX = 9, 5


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame as it travels."""

    kind: int
    flags: int
    stream: int
    payload: bytes

    @property
    def bytes(self) -> bytes:
        """What is written."""
        return b"".join(
            (
                len(self.payload).to_bytes(3, "big"),
                bytes((self.kind, self.flags)),
                self.stream.to_bytes(4, "big"),
                self.payload,
            )
        )

    @property
    def ends_stream(self) -> bool:
        """Whether its sender has nothing more to say on the stream, or wants to hear nothing more."""
        return self.kind == RESET or (self.kind == DATA and bool(self.flags & END_STREAM))


async def read_frame(reader: asyncio.StreamReader) -> Frame:
    """The next frame; raises asyncio.IncompleteReadError where there is none."""
    header = await reader.readexactly(_HEADER)
    payload = await reader.readexactly(int.from_bytes(header[:3], "big"))
    return Frame(header[3], header[4], int.from_bytes(header[5:], "big") & 0x7FFF_FFFF, payload)


class Messages:
    """The gRPC messages of one direction of a connection, put together from the frames of each stream."""

    def __init__(self) -> None:
        self._pending: dict[int, bytes] = {}

    def completed_by(self, frame: Frame) -> list[bytes]:
        """Messages whose last byte a DATA frame brings. What is incomplete waits here and is not to be passed on."""
        data = self._pending.pop(frame.stream, b"") + frame.payload
        messages = []
        while len(data) >= _PREFIX and len(data) >= (end := _PREFIX + int.from_bytes(data[1:_PREFIX], "big")):
            messages.append(data[_PREFIX:end])
            data = data[end:]
        if data:
            self._pending[frame.stream] = data
        return messages


def frames_of(messages: Iterable[bytes], like: Frame) -> Iterator[Frame]:
    """Frames that carry these messages in place of the one that completed them."""
    data = b"".join(b"\0" + len(message).to_bytes(4, "big") + message for message in messages)
    pieces = [data[start : start + MOST_PAYLOAD] for start in range(0, len(data), MOST_PAYLOAD)]
    for piece in pieces:
        yield Frame(DATA, 0, like.stream, piece)
    if like.flags & END_STREAM:
        yield Frame(DATA, END_STREAM, like.stream, b"")
