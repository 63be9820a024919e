"""HTTP Basic authentication of the peers of a server (RFC 7617).

What belongs here: reading credentials from a request and comparing them. What does not: what
a client sends (:mod:`.client_handshake`), other ways to authenticate (a hook does them).
"""

from __future__ import annotations

import base64
import hmac
import os
import re
from collections.abc import Callable, Iterable
from typing import TypeAlias

from .hooks import ProcessRequest
from .http11 import Request, Response
from .options import check_function
from .server_connection import PendingConnection

__all__ = ["Credentials", "basic_auth"]

Credentials: TypeAlias = tuple[str, str]
"""A user name and a password."""

_BASIC = re.compile(r"basic +([A-Za-z0-9+/]+={0,2})", re.ASCII | re.IGNORECASE)
# C1, too: some terminals obey it in a log.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def basic_auth(
    realm: str = "",
    credentials: Credentials | Iterable[Credentials] | None = None,
    check_credentials: Callable[[str, str], bool] | None = None,
) -> ProcessRequest:
    """Makes a ``process_request`` hook that wants HTTP Basic authentication::

        syncws.serve(handler, process_request=basic_auth("staff", ("jo", "secret")))

    Whoever is let in has ``connection.username``; all others get 401. A password travels
    as it is: use it over TLS. How long a refusal takes does not depend on how much of a
    password is right, nor on whether the user exists.

    Args:
        realm: What users are shown; ASCII.
        credentials: A pair ``(username, password)``, or an iterable of pairs.
        check_credentials: Called with the user name and the password in the handler's
            thread; returns whether they are good. It has to compare passwords in constant
            time (:func:`hmac.compare_digest`) itself.

    Raises:
        TypeError: Both or none of the last two are given, or one has the wrong type.
        ValueError: The realm or a user name cannot be sent.
    """
    if (credentials is None) == (check_credentials is None):
        raise TypeError("basic_auth() takes either credentials or check_credentials")
    challenge = f'Basic realm="{_quoted(realm)}", charset="UTF-8"'
    if check_credentials is None:
        check_credentials = _Passwords(credentials or ())
    else:
        check_function("check_credentials", check_credentials)
    check = check_credentials

    def process_request(connection: PendingConnection, request: Request) -> Response | None:
        given = _credentials_of(request)
        if given is not None:
            good = check(*given)
            if not isinstance(good, bool):
                # A coroutine would be true, and let everybody in.
                raise TypeError(f"check_credentials returned {type(good).__name__}, not a bool")
            if good:
                connection.username = given[0]
                return None
        response = connection.respond(401, "Authentication is required.\n")
        response.headers["WWW-Authenticate"] = challenge
        return response

    return process_request


class _Passwords:
    """Compares with known passwords; each call does the same work."""

    def __init__(self, credentials: Credentials | Iterable[Credentials]) -> None:
        # Digests have one length, whatever the password; without the key nobody can choose
        # passwords by the digests that they have.
        self._key = os.urandom(32)
        self._digests: dict[str, bytes] = {}
        self._nobody = os.urandom(32)
        if isinstance(credentials, tuple) and all(isinstance(item, str) for item in credentials):
            credentials = [credentials]
        for pair in credentials:
            if not isinstance(pair, (tuple, list)) or len(pair) != 2:
                raise TypeError("credentials must be a pair (username, password), or pairs")
            username, password = pair
            if not isinstance(username, str) or not isinstance(password, str):
                raise TypeError("credentials must be pairs of str")
            if ":" in username or _CONTROL.search(username + password):
                # RFC 7617 section 2. The text shows neither of them.
                raise ValueError(
                    "credentials must have no control characters, and no colon in a user name"
                )
            self._digests[username] = self._digest(password)

    def __repr__(self) -> str:
        return f"<{len(self._digests)} passwords>"

    def __call__(self, username: str, password: str) -> bool:
        expected = self._digests.get(username)
        right = hmac.compare_digest(self._digest(password), expected or self._nobody)
        return right and expected is not None

    def _digest(self, password: str) -> bytes:
        return hmac.digest(self._key, password.encode("utf-8", "surrogatepass"), "sha256")


def _credentials_of(request: Request) -> Credentials | None:
    """What the request brings, if that is one pair of Basic credentials."""
    values = request.headers.get_all("Authorization")
    if len(values) != 1:
        return None
    match = _BASIC.fullmatch(values[0])
    # The decoder does not mind too much padding.
    if match is None or len(match[1]) % 4:
        return None
    try:
        text = base64.b64decode(match[1]).decode()
    except ValueError:  # not UTF-8
        return None
    username, colon, password = text.partition(":")
    if not colon or _CONTROL.search(text):
        return None
    return username, password


def _quoted(realm: str) -> str:
    if not isinstance(realm, str):
        raise TypeError(f"realm must be a str, not {type(realm).__name__}")
    if not realm.isascii() or _CONTROL.search(realm):
        raise ValueError("realm must be ASCII without control characters")
    # RFC 9110 section 5.6.4.
    return realm.replace("\\", r"\\").replace('"', r"\"")
