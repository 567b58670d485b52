"""The files of a gateway: written from a draft, and edited in place."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from app.errors import UsageError
from app.settings import load_settings
from app.setup.files import adopt

GATEWAY = """\
# Ours.
listen: 127.0.0.1:8080
catalog: models.yaml            # beside this file
artifact: ../artifacts/old-v1   # guess: the one that came with the installation

profiles:
  default: {order: [small]}     # cheap enough
keys:
- id: us
  secret: sk-us
  concurrency: null
"""
CATALOG = """\
models:
- name: small                   # callers' word
  served_as: org/Small
  backend: here
  predicted_as: llama-2-7b      # guess: by its name
  # The rest was measured.
  card: {context_tokens: 4096, capabilities: [chat]}

- name: large
  backend: here
  card:
    context_tokens: 8192        # --max-model-len

# One machine.
backends:
- name: here
  kind: vllm
  urls: ["http://127.0.0.1:8000"]
"""


def written(folder: Path, gateway: str = GATEWAY, catalog: str = CATALOG) -> Path:
    (folder / "configs").mkdir()
    (folder / "configs/models.yaml").write_text(catalog)
    config = folder / "configs/gateway.yaml"
    config.write_text(gateway)
    return config


def test_adopting_an_artifact_changes_its_lines_and_no_others(tmp_path: Path) -> None:
    config = written(tmp_path)

    adopt(config, tmp_path / "var/mine-v1", {"small": "small", "large": "no"})

    assert config.read_text() == GATEWAY.replace(
        "artifact: ../artifacts/old-v1   # guess: the one that came with the installation", "artifact: ../var/mine-v1"
    )
    assert (config.parent / "models.yaml").read_text() == CATALOG.replace(
        "predicted_as: llama-2-7b      # guess: by its name", "predicted_as: small"
    ).replace("- name: large\n  backend: here\n", '- name: large\n  backend: here\n  predicted_as: "no"\n')
    settings = load_settings(config)
    assert settings.artifact == config.parent / "../var/mine-v1"
    assert [model.predicted_as for model in settings.catalog.models] == ["small", "no"]


def test_a_file_that_names_no_artifact_gets_one(tmp_path: Path) -> None:
    config = written(tmp_path, "catalog: models.yaml    # beside this file\n")
    adopt(config, Path("/elsewhere/mine-v1"), {})
    assert config.read_text() == "artifact: /elsewhere/mine-v1\ncatalog: models.yaml    # beside this file\n"


def test_the_projects_own_files_change_in_those_lines_only(tmp_path: Path) -> None:
    for name in ("demo.yaml", "demo-catalog.yaml"):
        (tmp_path / name).write_text(Path("configs", name).read_text())
    config = tmp_path / "demo.yaml"
    before = {name: (tmp_path / name).read_text().splitlines() for name in ("demo.yaml", "demo-catalog.yaml")}

    adopt(config, tmp_path / "mine-v1", {"smollm2-135m": "mine"})

    changed = {
        line
        for name, lines in before.items()
        for line in set(lines) ^ set((tmp_path / name).read_text().splitlines())
    }
    assert {line.split(":")[0].strip() for line in changed} == {"artifact", "predicted_as"}


def test_comments_that_are_no_guess_stay(tmp_path: Path) -> None:
    config = written(tmp_path, GATEWAY.replace("guess: the one", "the one"))
    adopt(config, tmp_path / "var/mine-v1", {})
    assert "# the one that came with the installation" in config.read_text()


def test_an_unknown_model_leaves_both_files_alone(tmp_path: Path) -> None:
    config = written(tmp_path)
    with pytest.raises(UsageError, match="has no model 'medium'; it has small, large"):
        adopt(config, tmp_path / "mine-v1", {"small": "small", "medium": "medium"})
    assert (config.read_text(), (config.parent / "models.yaml").read_text()) == (GATEWAY, CATALOG)


def test_files_keep_their_modes_and_links_stay_links(tmp_path: Path) -> None:
    config = written(tmp_path)
    config.chmod(0o640)
    link = tmp_path / "configs/link.yaml"
    link.symlink_to(config)

    adopt(link, tmp_path / "mine-v1", {"small": "small"})

    assert link.is_symlink()
    assert stat.S_IMODE(config.stat().st_mode) == 0o640
    assert "artifact: ../mine-v1" in config.read_text()
    assert sorted(path.name for path in config.parent.iterdir()) == ["gateway.yaml", "link.yaml", "models.yaml"]
