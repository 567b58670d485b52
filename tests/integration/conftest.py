"""What integration tests share: the gateway's image, made where no engine is."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.fakes.bare_root import Builder, Image, place_for_roots, require_bare_root


@dataclass(frozen=True)
class Built:
    """The gateway's image, and the stage that made it."""

    gateway: Image
    build: Image


@pytest.fixture(scope="session")
def built() -> Iterator[Built]:
    """Takes a minute, on one core most of the time."""
    require_bare_root()
    begin = time.monotonic()
    with place_for_roots() as folder:
        builder = Builder(folder)
        images = Built(builder.build("gateway"), builder.build("build"))
        print(json.dumps({"image": "gateway", "built_in_s": round(time.monotonic() - begin)}))
        yield images
