"""The other end of the benchmarks over TLS: the same server (:mod:`benchmarks.load`) behind TLS.

What belongs here: the certificate. What does not: checking it, for whose sake nobody is measured.
"""

from __future__ import annotations

import ssl

import trustme

from benchmarks import load


def main() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    load.main(lambda sock: context.wrap_socket(sock, server_side=True))


if __name__ == "__main__":
    main()
