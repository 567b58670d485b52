"""What all tests share: the folder of public outcomes where it is there, and the size of the slow ones."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def public_outcomes() -> Path:
    """The folder of published outcomes of real models; it is not part of the project."""
    folder = Path(os.environ.get("THALAMUS_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "README.md").exists():
        pytest.skip(f"no public outcomes in {folder}; set THALAMUS_DATA to where they are")
    return folder


@pytest.fixture(scope="session")
def full_size() -> bool:
    """Whether slow tests run at their full size (`make test-all`)."""
    return os.environ.get("THALAMUS_TEST_SIZE") == "full"
