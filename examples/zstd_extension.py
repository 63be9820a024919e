"""An extension of one's own: compression by Zstandard, message by message.

pip install backports.zstd      # before Python 3.14, which has it as compression.zstd
python examples/zstd_extension.py

Each compressed message is one Zstandard frame (RFC 8878), streamed: neither side holds it twice.
RSV2 in the first WebSocket frame says that a message is compressed; RSV1 is that of
``permessage-deflate`` (RFC 7692), so that both can be agreed on for one connection.

Each side tells in the opening handshake how far back what it receives may refer,
as ``max_window_log=17`` (2 to the power of 17 bytes): that is the memory it needs to decompress.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence

import syncws

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

NAME = "permessage-zstd"
RSV1 = 4
RSV2 = 2
# What Zstandard can do at least, and what RFC 9659 allows on the web at most: 8 MiB.
LEAST, MOST = 10, 23


class Zstd(syncws.Extension):
    """The codec of one connection.

    Args:
        send_window_log: How far back we refer: 2 to the power of it bytes.
        receive_window_log: How far back the peer may refer.
        level: Of compression.
        threshold: Bytes; shorter messages are not compressed unless the caller wishes it.
    """

    name = NAME
    rsv = RSV2
    # Whatever comes: a large message is compressed and decompressed in pieces.
    unit = syncws.Unit.PIECE

    def __init__(
        self, send_window_log: int, receive_window_log: int, level: int, threshold: int
    ) -> None:
        self._compression: dict[int, int] = {
            zstd.CompressionParameter.window_log: send_window_log,
            zstd.CompressionParameter.compression_level: level,
            zstd.CompressionParameter.checksum_flag: 1,
        }
        self._decompression: dict[int, int] = {
            zstd.DecompressionParameter.window_log_max: receive_window_log
        }
        self._least = threshold
        # Made when they are first needed: an idle connection takes no memory.
        self._compressor: zstd.ZstdCompressor | None = None
        self._decompressor: zstd.ZstdDecompressor | None = None
        # Whether the outgoing message under way is compressed.
        self._compressing = False
        self._counts = {"sent": 0, "sent_compressed": 0, "received": 0, "received_compressed": 0}

    def encode(self, fragment: syncws.Fragment) -> syncws.Fragment:
        if fragment.first:
            self._compressing = self._wanted(fragment)
        if not self._compressing:
            return fragment
        # The connection may end meanwhile, in another thread.
        compressor = self._compressor
        if compressor is None:
            compressor = self._compressor = zstd.ZstdCompressor(options=self._compression)
        data = compressor.compress(fragment.data)
        if fragment.last:
            data += compressor.flush(zstd.ZstdCompressor.FLUSH_FRAME)
        elif fragment.frame_end:
            # The next one may come much later, and the peer may want what there is.
            data += compressor.flush(zstd.ZstdCompressor.FLUSH_BLOCK)
        self._counts["sent"] += len(fragment.data)
        self._counts["sent_compressed"] += len(data)
        return fragment._replace(data=data, rsv=fragment.rsv | RSV2 if fragment.first else 0)

    def _wanted(self, fragment: syncws.Fragment) -> bool:
        if fragment.compress is not None:
            return fragment.compress
        if fragment.rsv & RSV1:
            return False  # permessage-deflate was agreed on as well, and has compressed it
        return len(fragment.data) >= self._least or not fragment.last

    def decode(self, fragment: syncws.Fragment, max_size: int | None) -> syncws.Fragment:
        if fragment.first:
            self._decompressor = zstd.ZstdDecompressor(options=self._decompression)
        decompressor = self._decompressor
        assert decompressor is not None
        data = b""
        if fragment.data:
            if decompressor.eof:
                raise syncws.DecompressionError(f"{NAME}: a message goes on after its end")
            try:
                # One byte too much tells a message that is too big from one that just fits.
                data = decompressor.decompress(
                    fragment.data, -1 if max_size is None else max_size + 1
                )
            except zstd.ZstdError as error:
                raise syncws.DecompressionError(f"{NAME}: {error}") from None
        if max_size is not None and len(data) > max_size:
            raise syncws.PayloadTooBig("a message exceeds max_size when decompressed")
        if decompressor.unused_data:
            raise syncws.DecompressionError(f"{NAME}: a message goes on after its end")
        if fragment.last:
            if not decompressor.eof:
                raise syncws.DecompressionError(f"{NAME}: a message is truncated")
            self._decompressor = None
        self._counts["received"] += len(data)
        self._counts["received_compressed"] += len(fragment.data)
        return fragment._replace(data=data, rsv=fragment.rsv & ~RSV2)

    def forget_message(self) -> bool:
        # It may be in the middle of a frame. No message refers to an earlier one.
        self._compressor = None
        return True

    def connection_ended(self) -> None:
        self._compressor = self._decompressor = None

    def statistics(self) -> Mapping[str, int]:
        return dict(self._counts)


class _Settings:
    """What both factories have in common.

    Args:
        max_window_log: How far back the peer may refer, and we do at most: 10 to 23.
        level: Of compression, 1 to 22.
        threshold: Bytes; shorter messages are not compressed.
    """

    name = NAME

    def __init__(self, max_window_log: int = 17, level: int = 3, threshold: int = 128) -> None:
        if not LEAST <= max_window_log <= MOST:
            raise ValueError(f"max_window_log must be from {LEAST} to {MOST}")
        self.params = [("max_window_log", str(max_window_log))]
        self._window_log = max_window_log
        self._level = level
        self._threshold = threshold

    def codec(self, params: syncws.ExtensionParameters) -> Zstd:
        """The codec for a peer that sent ``params``: its own limit, and nothing else."""
        names = [name for name, _ in params]
        value = params[0][1] if names == ["max_window_log"] else None
        if value is None or not re.fullmatch("1[0-9]|2[0-3]", value):
            raise syncws.NegotiationError(f"{NAME}: max_window_log must be there, and no other")
        return Zstd(
            min(int(value), self._window_log), self._window_log, self._level, self._threshold
        )


class ClientZstd(_Settings, syncws.ClientExtensionFactory):
    """For ``connect(extensions=[ClientZstd()])``."""

    def get_request_params(self) -> syncws.ExtensionParameters:
        return self.params

    def process_response_params(
        self, params: syncws.ExtensionParameters, accepted_extensions: Sequence[syncws.Extension]
    ) -> Zstd:
        return self.codec(params)


class ServerZstd(_Settings, syncws.ServerExtensionFactory):
    """For ``serve(extensions=[ServerZstd()])``."""

    def process_request_params(
        self, params: syncws.ExtensionParameters, accepted_extensions: Sequence[syncws.Extension]
    ) -> tuple[syncws.ExtensionParameters, Zstd]:
        return self.params, self.codec(params)


def echo(ws: syncws.Connection) -> None:
    for message in ws:
        ws.send(message)


def main() -> None:
    with (
        syncws.serve(echo, "localhost", 0, extensions=[ServerZstd()], compression=None) as server,
        syncws.connect(server.url, extensions=[ClientZstd()], compression=None) as ws,
    ):
        print("agreed on:", ws.response.headers["Sec-WebSocket-Extensions"])
        message = "".join(f"line {number}\n" for number in range(1000))
        ws.send(message)
        assert ws.recv(timeout=5) == message
        figures = ws.stats.extensions[NAME]
        print(f"{figures['sent']} bytes went out as {figures['sent_compressed']}")


if __name__ == "__main__":
    main()
