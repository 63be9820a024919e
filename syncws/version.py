"""The version of syncws, and nothing else: the build reads it without importing the rest."""

from __future__ import annotations

__all__ = ["version"]

version = "0.1.0"
