"""A manifest may say anything: an artifact loads, or is refused in one line."""

from __future__ import annotations

import copy
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from router_models.storage.artifact import ArtifactError, load_artifact

RELEASED = Path(__file__).resolve().parents[3] / "router_models" / "artifacts" / "demo-v2"
NESTED: list[Any] = []
for _ in range(500):
    NESTED = [NESTED]
HOSTILE: tuple[Any, ...] = (
    None, [], {}, "", -1, 0, 1e308, float("inf"), float("nan"), 10**400, True, "x\n" * 500_000, NESTED, [{"a": [None]}],
)  # fmt: skip
TRIED = 250


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every value within, by the keys that lead to it."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in entries:
        yield (*path, key)
        yield from places(inner, (*path, key))


def test_whatever_a_manifest_says_is_read_or_refused_in_one_line(tmp_path: Path, full_size: bool) -> None:
    folder = Path(shutil.copytree(RELEASED, tmp_path / "demo"))
    manifest = json.loads((folder / "manifest.json").read_text())
    changes = [(place, value) for place in places(manifest) for value in range(len(HOSTILE))]
    tried = changes if full_size else random.Random(7).sample(changes, TRIED)
    refused: list[str] = []
    for place, value in tried:
        changed = copy.deepcopy(manifest)
        within = changed
        for key in place[:-1]:
            within = within[key]
        within[place[-1]] = HOSTILE[value]
        (folder / "manifest.json").write_text(json.dumps(changed))
        try:
            load_artifact(folder)
        except ArtifactError as exc:
            refused.append(str(exc))
    print(json.dumps({"manifests": len(tried), "refused": len(refused)}))
    assert 0 < len(refused) < len(tried)
    assert all(len(message.splitlines()) == 1 and len(message) < 1_000 for message in refused)
