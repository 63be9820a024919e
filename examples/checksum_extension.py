"""An extension of one's own: a checksum behind every message.

python examples/checksum_extension.py

TCP's checksum is weak, and no checksum of the network sees what a proxy or a program in between
does to a message. With this extension both ends append a CRC-32 to each message they send, and
verify that of each message they receive. A wrong one fails the connection: ``recv()`` raises
a ConnectionClosedError, of which the ProtocolError below is the ``__cause__``.

It owns no bit of the frame header: that it was agreed on says that every message has one.
docs/extensions.md explains it line by line.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

import syncws

NAME = "permessage-checksum"
SIZE = 4


class Checksum(syncws.Extension):
    """The codec of one connection."""

    name = NAME
    # Whole messages: nobody gets to see a part of one that is not verified yet.
    unit = syncws.Unit.MESSAGE

    def __init__(self) -> None:
        # Each is written by one thread at a time: by those that send, by those that receive.
        self.appended = 0
        self.verified = 0

    def encode(self, fragment: syncws.Fragment) -> syncws.Fragment:
        checksum = zlib.crc32(fragment.data).to_bytes(SIZE, "big")
        self.appended += 1
        return fragment._replace(data=b"".join((fragment.data, checksum)))

    def decode(self, fragment: syncws.Fragment, max_size: int | None) -> syncws.Fragment:
        # What remains is shorter than what came, so max_size cannot be exceeded here.
        data = memoryview(fragment.data)
        if len(data) < SIZE:
            raise syncws.ProtocolError(f"{NAME}: a message of {len(data)} bytes has no checksum")
        content, checksum = data[:-SIZE], data[-SIZE:]
        if zlib.crc32(content).to_bytes(SIZE, "big") != checksum:
            raise syncws.ProtocolError(f"{NAME}: a message was changed on its way: wrong CRC-32")
        self.verified += 1
        return fragment._replace(data=content)

    def statistics(self) -> Mapping[str, int]:
        return {"appended": self.appended, "verified": self.verified}


class ClientChecksum(syncws.ClientExtensionFactory):
    """For ``connect(extensions=[ClientChecksum()])``."""

    name = NAME

    def get_request_params(self) -> syncws.ExtensionParameters:
        return []

    def process_response_params(
        self, params: syncws.ExtensionParameters, accepted_extensions: Sequence[syncws.Extension]
    ) -> Checksum:
        if params:
            raise syncws.NegotiationError(f"{NAME}: the server's answer has parameters")
        return Checksum()


class ServerChecksum(syncws.ServerExtensionFactory):
    """For ``serve(extensions=[ServerChecksum()])``."""

    name = NAME

    def process_request_params(
        self, params: syncws.ExtensionParameters, accepted_extensions: Sequence[syncws.Extension]
    ) -> tuple[syncws.ExtensionParameters, Checksum]:
        if params:
            # Perhaps a later version of this extension, with a weaker offer behind it.
            raise syncws.NegotiationError(f"{NAME}: the client's offer has parameters")
        return [], Checksum()


def echo(ws: syncws.Connection) -> None:
    for message in ws:
        ws.send(message)


def main() -> None:
    with (
        syncws.serve(echo, "localhost", 0, extensions=[ServerChecksum()]) as server,
        syncws.connect(server.url, extensions=[ClientChecksum()]) as ws,
    ):
        print("agreed on:", ", ".join(extension.name for extension in ws.extensions))
        for message in ("Hello!", b"\x00" * 1000, ""):
            ws.send(message)
            assert ws.recv(timeout=5) == message
        print(ws.stats.extensions[NAME])


if __name__ == "__main__":
    main()
