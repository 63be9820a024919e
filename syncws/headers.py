"""HTTP headers, as they are kept in memory and as they go over the wire.

What belongs here: the rules for names and values (RFC 9110 section 5), and what may be
shown of them. What does not: what any single header means, and parsing (``http11``).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, MutableMapping
from typing import Protocol, TypeAlias, runtime_checkable

from .exceptions import MultipleValuesError

__all__ = ["TOKEN", "Headers", "HeadersLike", "is_token", "is_value"]

TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
is_token = re.compile(TOKEN).fullmatch
"""Whether a text is a token (RFC 9110 section 5.6.2), as names of headers are."""
is_value = re.compile(r"[\t\x20-\x7e\x80-\xff]*").fullmatch
"""Whether a text has only tabs, spaces, visible ASCII and obs-text (RFC 9110 section 5.5).

Obs-text is ISO-8859-1 here, as in most of the Python world.
"""

_lines_of = re.compile(r"([^:]+): (.*)\r\n").findall
_SECRET = frozenset({"authorization", "proxy-authorization", "cookie", "set-cookie"})
_URI_VALUED = frozenset({"location", "referer"})
_USERINFO = re.compile(r"//[^/?#]*@")


class Headers(MutableMapping[str, str]):
    """HTTP headers: ordered, case-insensitive, each name any number of times.

    While no name occurs twice it behaves like a ``dict`` whose keys are lower-cased.
    ``headers[name] = value`` appends; ``del headers[name]`` removes every header of that
    name. Names and values are checked whenever they enter, so an instance can always be
    sent: a name is a token, a value has no control character (CR, LF and NUL among
    them), no character beyond ISO-8859-1 and no space at its ends.

    ``repr()`` hides the values of ``Authorization``, ``Proxy-Authorization``, ``Cookie``
    and ``Set-Cookie``, and user information and queries in ``Location`` and ``Referer``.

    An instance may be read by several threads at once, or changed by one.

    Args:
        headers: Another instance, a mapping, or an iterable of ``(name, value)``.

    Raises:
        ValueError: A name or value cannot be sent; the text says which name.
        TypeError: A name or value is not a ``str``.
    """

    # One string as it goes over the wire: every open connection keeps two of these, and
    # this takes a tenth of the memory of a list and a dict of strings. Lookups are rare.
    __slots__ = ("_text",)

    def __init__(self, headers: HeadersLike = (), /, **others: str) -> None:
        self._text = ""
        self.update(headers, **others)

    @classmethod
    def from_field_lines(cls, text: str) -> Headers:
        """Makes an instance of ``name: value`` lines with their CRLF, which it trusts."""
        self = cls.__new__(cls)
        self._text = text
        return self

    def __repr__(self) -> str:
        shown = [(name, _redacted(name, value)) for name, value in self.raw_items()]
        return f"{type(self).__name__}({shown!r})"

    def __getitem__(self, name: str) -> str:
        values = self.get_all(name)
        if len(values) == 1:
            return values[0]
        if not values:
            raise KeyError(name)
        raise MultipleValuesError(name, len(values))

    def __setitem__(self, name: str, value: str) -> None:
        self._text += _field_line(name, value)

    def __delitem__(self, name: str) -> None:
        if name not in self:
            raise KeyError(name)
        prefix = name.lower() + ":"
        kept = [line for line in self._lines() if line[: len(prefix)].lower() != prefix]
        self._text = "".join(f"{line}\r\n" for line in kept)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and bool(self.get_all(name))

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(name.lower() for name, _ in self.raw_items()))

    def __len__(self) -> int:
        return len({name.lower() for name, _ in self.raw_items()})

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Headers):
            return NotImplemented
        return _values(self._text) == _values(other._text)

    def update(self, headers: HeadersLike = (), /, **others: str) -> None:
        """Appends headers; none of them if one is not valid.

        Args:
            headers: As for the constructor.
            **others: More headers, by name.
        """
        added = [_field_line(name, value) for name, value in _pairs(headers)]
        added += [_field_line(name, value) for name, value in others.items()]
        self._text += "".join(added)

    def add_field_lines(self, text: str) -> None:
        """Appends ``name: value`` lines with their CRLF, which it trusts."""
        self._text += text

    def clear(self) -> None:
        """Removes all headers."""
        self._text = ""

    def copy(self) -> Headers:
        """Returns an independent copy."""
        return Headers.from_field_lines(self._text)

    def get_all(self, name: str) -> list[str]:
        """Returns the values of all headers of that name, in order.

        Args:
            name: In any case.
        """
        return list(_values(self._text).get(name.lower(), ()))

    def raw_items(self) -> Iterator[tuple[str, str]]:
        """Yields ``(name, value)`` for each header, as they were written."""
        for line in self._lines():
            name, _, value = line.partition(": ")
            yield name, value

    def serialize(self) -> bytes:
        """Returns the header lines and the empty line after them."""
        return f"{self._text}\r\n".encode("latin-1")

    def _lines(self) -> list[str]:
        lines = self._text.split("\r\n")
        del lines[-1]
        return lines


# A handshake looks up one instance several times, and then mostly nobody ever again: the
# texts that were looked into last are remembered (with what is secret in them, until eight
# others were), and no instance keeps more than its own.
@functools.lru_cache(maxsize=8)
def _values(text: str) -> dict[str, list[str]]:
    """The values by name in lower case, of ``name: value`` lines; not to be changed."""
    values: dict[str, list[str]] = {}
    for name, value in _lines_of(text):
        values.setdefault(name.lower(), []).append(value)
    return values


@runtime_checkable
class _SupportsKeys(Protocol):
    def keys(self) -> Iterable[str]: ...
    def __getitem__(self, name: str, /) -> str: ...


HeadersLike: TypeAlias = Headers | _SupportsKeys | Iterable[tuple[str, str]]
"""Another instance, a mapping, or pairs of a name and a value."""


def _pairs(headers: HeadersLike) -> Iterator[tuple[str, str]]:
    # The types of lists first: asking an abstract class or a protocol takes 20 times as long.
    listed = isinstance(headers, (tuple, list))
    raw_items = None if listed else getattr(headers, "raw_items", None)
    if callable(raw_items):
        # Ours or those of websockets, which as mappings would hide that a name is repeated.
        yield from raw_items()
    elif not listed and isinstance(headers, _SupportsKeys):
        for name in headers.keys():
            yield name, headers[name]
    elif isinstance(headers, (str, bytes)) or not isinstance(headers, Iterable):
        raise TypeError(
            "headers must be a mapping or an iterable of (name, value) pairs, "
            f"not {type(headers).__name__}"
        )
    else:
        for pair in headers:
            if not isinstance(pair, (tuple, list)) or len(pair) != 2:
                raise TypeError("each header must be a pair: (name, value)")
            yield pair[0], pair[1]


def _field_line(name: str, value: str) -> str:
    if not isinstance(name, str):
        raise TypeError(f"the name of a header must be a str, not {type(name).__name__}")
    if is_token(name) is None:
        # What follows a colon would be a value: perhaps a secret.
        raise ValueError(f"{name.partition(':')[0]!r}... is not a valid name for a header")
    if not isinstance(value, str):
        raise TypeError(f"the value of header {name} must be a str, not {type(value).__name__}")
    if is_value(value) is None:
        raise ValueError(
            f"the value of header {name} contains a control character "
            "or one that ISO-8859-1 does not have"
        )
    if value != value.strip(" \t"):
        # The receiver strips it (RFC 9110 section 5.5), so it is a mistake.
        raise ValueError(f"the value of header {name} begins or ends with a space or tab")
    return f"{name}: {value}\r\n"


def _redacted(name: str, value: str) -> str:
    if name.lower() in _SECRET:
        return "***"
    if name.lower() in _URI_VALUED:
        return without_query(_USERINFO.sub("//***@", value))
    return value


def without_query(target: str) -> str:
    """What may be shown of a request target or a URI, for a query may hold secrets."""
    path, question_mark, _ = target.partition("?")
    return f"{path}?***" if question_mark else target
