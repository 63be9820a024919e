"""A server with handlers by path, a health check, and a password for all the rest.

pip install 'syncws[routing]'
python examples/routed_server.py 8765
curl http://localhost:8765/health
curl http://localhost:8765/
"""

from __future__ import annotations

import sys

from werkzeug.routing import Map, Rule

import syncws

PAGE = b"<!doctype html><title>syncws</title><p>Connect to /rooms/1 with a password.\n"
# What needs none. Not the other way round: there are many ways to write a path (/%72ooms/1,
# http://host/rooms/1, ...), and whoever finds one that is missing here meets a password.
PUBLIC = {"/", "/health"}

ask_password = syncws.basic_auth("rooms", ("guest", "correct horse battery staple"))


def room(ws: syncws.ServerConnection, number: int) -> None:
    ws.send(f"welcome to room {number}, {ws.username}")
    for message in ws:
        ws.send(f"room {number}: {message!r}")


def index(connection: syncws.PendingConnection, request: syncws.Request) -> syncws.Response:
    headers = syncws.Headers({"Content-Type": "text/html; charset=utf-8"})
    return syncws.Response(200, "OK", headers, PAGE)


def health(connection: syncws.PendingConnection, request: syncws.Request) -> syncws.Response:
    return connection.respond(200, "fine\n")


def process_request(
    connection: syncws.PendingConnection, request: syncws.Request
) -> syncws.Response | None:
    """Comes before the rules."""
    return None if request.path in PUBLIC else ask_password(connection, request)


RULES = [
    Rule("/", endpoint=index, methods=["GET"]),
    Rule("/health", endpoint=health, methods=["GET"]),
    Rule("/rooms/<int:number>", endpoint=room),
]


def main() -> None:
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8765
    server = syncws.route(Map(RULES), "localhost", port, process_request=process_request)
    with server:
        print(f"listening on {server.url}", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("shutting down")


if __name__ == "__main__":
    main()
