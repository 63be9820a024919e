"""Starts wstest, without the part of its compression cases that costs most and tests nothing.

What belongs here: how the suite is run. What does not: what it sends, what it expects, and its
verdicts, which are its own. Runs on the suite's Python 2.7.

The cases of sections 12 and 13 send a thousand messages each. For every message they decode their
whole text file anew and compute two SHA-1, in pure C code without OpenSSL, of what was sent and
what came back. Here the text is decoded once, and the two messages themselves are compared.
"""

import sys

from autobahntestsuite import wstest
from autobahntestsuite.case import case12_x_x


class Text(str):
    """The bytes of a file, which remember the text they were decoded to."""

    def decode(self, encoding):
        if not hasattr(self, "decoded"):
            self.decoded = str.decode(self, encoding)
        return self.decoded


class OpenedFile(object):  # noqa: UP004 (Python 2)
    """A file that is read once for all cases."""

    contents = {}  # noqa: RUF012 (Python 2)

    def __init__(self, path, mode):
        if path not in self.contents:
            with open(path, mode) as file:
                self.contents[path] = Text(file.read())
        self.path = path

    def read(self):
        return self.contents[self.path]


class Whole(object):  # noqa: UP004 (Python 2)
    """Has the interface of a hash, and is the data: equal if and only if they are equal."""

    def __init__(self):
        self.data = b""

    def update(self, data):
        self.data += data

    def digest(self):
        return self.data


class Hashes(object):  # noqa: UP004 (Python 2)
    """What the cases use of hashlib."""

    sha1 = Whole


case12_x_x.open = OpenedFile
case12_x_x.hashlib = Hashes

if __name__ == "__main__":
    sys.exit(wstest.run())
