"""``syncws.extension_options``: what ``extensions=`` and ``compression=`` ask for."""

from __future__ import annotations

from typing import Any

import pytest

from syncws.extension_options import client_extensions, server_extensions
from syncws.extensions import ClientExtensionFactory, ServerExtensionFactory
from syncws.permessage_deflate import ClientPerMessageDeflateFactory, ServerPerMessageDeflateFactory


class ClientOther(ClientExtensionFactory):
    name = "other"


class ServerOther(ServerExtensionFactory):
    name = "other"


SIDES = [
    (client_extensions, ClientOther, ClientPerMessageDeflateFactory),
    (server_extensions, ServerOther, ServerPerMessageDeflateFactory),
]


@pytest.mark.parametrize(("options", "other", "deflate"), SIDES)
def test_compression_comes_last_and_only_once(options: Any, other: Any, deflate: Any) -> None:
    assert [type(one) for one in options(None, "deflate")] == [deflate]
    assert options(None, None) == []
    factory, own = other(), deflate(memory="small")
    assert [type(one) for one in options([factory], "deflate")] == [other, deflate]
    assert options((factory,), None) == [factory]
    assert options([own, factory], "deflate") == [own, factory]


@pytest.mark.parametrize(("options", "other", "deflate"), SIDES)
def test_wrong_arguments_are_named(options: Any, other: Any, deflate: Any) -> None:
    with pytest.raises(ValueError, match="compression must be 'deflate' or None, not 'gzip'"):
        options(None, "gzip")
    for wrong in ("permessage-deflate", 1, {other()}):
        with pytest.raises(TypeError, match="extensions must be a sequence of factories"):
            options(wrong, None)
    for wrong in (other, "x", None):
        with pytest.raises(TypeError, match="extensions must contain objects of "):
            options([wrong], None)


def test_factories_of_the_other_side_are_refused() -> None:
    with pytest.raises(TypeError, match="objects of ClientExtensionFactory, not <"):
        client_extensions([ServerOther()], None)  # type: ignore[list-item]
