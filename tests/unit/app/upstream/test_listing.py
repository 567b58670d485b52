"""Lists of models, and what is no such list."""

from __future__ import annotations

import pytest

from app.upstream.listing import listed


def test_models_are_listed_in_an_object_or_bare_under_their_names() -> None:
    assert listed(b'{"data": [{"id": "a"}, {"id": "models/b"}]}').keys() == {"a", "b"}
    assert listed(b'[{"id": "a"}]').keys() == {"a"}


NO_LISTS = [b"", b"[", b"7", b"null", b"{}", b'{"data": 7}', b'{"data": ["a"]}', b'[{"name": "a"}]', b"\xff"]


@pytest.mark.parametrize("page", [*NO_LISTS, b"[" * 100_000, b'[{"id": "a", "n": %b}]' % (b"1" * 5_000)])
def test_what_is_no_list_is_said_to_be_none(page: bytes) -> None:
    with pytest.raises(ValueError, match="something else than a list of models"):
        listed(page)
