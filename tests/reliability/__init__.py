"""What a peer, a network and a careless caller can do, against the public API.

Each file takes one group of the project's reliability catalogue; the name of a test begins
with the row it covers (``test_A1_...``).
"""

from __future__ import annotations

import pytest

# Their asserts are oracles too: a failure shows the values.
pytest.register_assert_rewrite(f"{__name__}.peer", f"{__name__}.subject")
