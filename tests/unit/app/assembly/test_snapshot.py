"""What a configuration is told to lack, and what a reload cannot change: nobody would notice otherwise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.assembly.snapshot import check_lasting
from app.errors import UsageError
from app.main import create_app
from app.settings import Settings, load_settings
from tests.fakes.deployment import write_config

ENVIRONMENT = {"ONE": "a password", "OTHER": "another"}
KEPT: dict[str, Any] = {"store_password_env": "ONE", "journal": {"keep_days": 30, "keep_records": 1000}}


def settings(folder: Path, **changes: Any) -> Settings:
    return load_settings(write_config(folder, {"small": "http://127.0.0.1:9001"}, **KEPT | changes), ENVIRONMENT)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("listen", {"listen": "127.0.0.1:1"}),
        ("admin_listen", {"admin_listen": "127.0.0.1:1"}),
        ("workers", {"workers": 2}),
        ("store", {"store": "redis://127.0.0.1:1/0"}),
        ("store_password_env", {"store_password_env": "OTHER"}),
        ("store_password_env", {"store_password_env": None}),
        ("state_dir", {"state_dir": "elsewhere", "pepper_file": "state/pepper"}),
        ("pepper_file", {"pepper_file": "elsewhere"}),
        ("journal.keep_days", {"journal": {"keep_days": 7, "keep_records": 1000}}),
        ("journal.keep_records", {"journal": {"keep_days": 30}}),
    ],
)
def test_what_only_a_restart_can_change_is_refused(tmp_path: Path, name: str, changes: dict[str, Any]) -> None:
    before = settings(tmp_path)
    with pytest.raises(UsageError) as caught:
        check_lasting(settings(tmp_path, **changes), before)
    (line,) = str(caught.value).splitlines()
    assert line == f"{before.path}: {name}: a running gateway keeps this as it is; restart it instead"


def test_all_else_may_change(tmp_path: Path) -> None:
    before = settings(tmp_path)
    check_lasting(settings(tmp_path, limits={"in_flight": 7}, profiles={"x": {}}, upstream={"hedge": True}), before)


async def test_models_that_no_budget_stops_are_named_at_the_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_config(tmp_path, dict.fromkeys(("small", "large", "huge"), "http://127.0.0.1:1"))
    catalog = tmp_path / "catalog.yaml"
    content = yaml.safe_load(catalog.read_text())
    content["models"][1]["price"] = {"input_usd_per_m": 0, "output_usd_per_m": 0}
    del content["models"][2]["price"]
    catalog.write_text(yaml.safe_dump(content))
    async with create_app(load_settings(path), together=1):
        pass
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["models"] for line in lines if line["event"] == "models.unpriced"] == [["large", "huge"]]
