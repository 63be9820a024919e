"""Blocking WebSockets for threaded Python (RFC 6455).

What belongs here: the public names. What does not: anything else.
"""

from __future__ import annotations

from .version import version as __version__

__all__ = ["__version__"]
