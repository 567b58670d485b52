"""What the command line settles before NumPy is there."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

THREADS = "import os, app.cli, numpy; print(len(os.listdir('/proc/self/task')))"


@pytest.mark.skipif(os.cpu_count() == 1, reason="linear algebra has one thread anyway")
def test_no_verb_starts_threads_for_linear_algebra() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, "-c", THREADS], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "1"
