"""Look for inputs that break a target, guided by what code they reach.

    python -m tests.fuzz.run TARGET [SECONDS]     fuzz; finds are kept in a folder of the system's temporary one
    python -m tests.fuzz.run TARGET merge         add to the committed corpus what of them reaches new code

An input that crashes a target, takes over a second or 512 MiB is written there too, as `crash-...`, `timeout-...` or
`oom-...`; once its bug is fixed it belongs into the corpus.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from pathlib import Path

import atheris  # type: ignore[import-untyped]  # has none

CORPUS = Path(__file__).parent / "corpus"
FOUND = Path(tempfile.gettempdir()) / "thalamus-fuzz"
MAX_BYTES = 4096


def main(name: str, how: str = "60") -> None:
    with atheris.instrument_imports(include=["app"]):
        targets = importlib.import_module("tests.fuzz.targets").TARGETS
    found, corpus = FOUND / name, CORPUS / name
    for folder in (found, corpus):
        folder.mkdir(parents=True, exist_ok=True)
    options = [f"-artifact_prefix={found}/", f"-max_len={MAX_BYTES}", "-timeout=2", "-rss_limit_mb=512"]
    if how == "merge":
        options += ["-merge=1", str(corpus), str(found)]
    else:
        options += [f"-max_total_time={int(how)}", str(found), str(corpus)]
    atheris.Setup([sys.argv[0], *options], targets[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
