"""An echo over TLS, both sides in one program, with a certificate made on the spot.

pip install 'syncws[demo]'
python examples/tls_echo.py

A real server loads its certificate with ``context.load_cert_chain("cert.pem", "key.pem")``,
and a client needs no context at all for a certificate that the system trusts.
"""

from __future__ import annotations

import ssl

import trustme

import syncws


def echo(ws: syncws.Connection) -> None:
    for message in ws:
        ws.send(message)


def main() -> None:
    authority = trustme.CA()
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1", "::1").configure_cert(server_context)
    client_context = ssl.create_default_context()
    authority.configure_trust(client_context)

    with (
        syncws.serve(echo, "localhost", 0, ssl=server_context) as server,
        syncws.connect(server.url, ssl=client_context) as ws,
    ):
        ws.send("Hello over TLS!")
        print("received:", ws.recv(timeout=5))


if __name__ == "__main__":
    main()
