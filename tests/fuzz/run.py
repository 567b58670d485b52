"""Look for inputs that break a target, guided by what code they reach.

    python -m tests.fuzz.run TARGET [SECONDS]     fuzz; finds are kept in a folder of the system's temporary one
    python -m tests.fuzz.run TARGET keep          add to the committed corpus what of them reaches new code

An input that breaks a target, takes over a second or 512 MiB is written there too, as `crash-...`, `timeout-...` or
`oom-...`; once its bug is fixed it belongs into the corpus.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

CORPUS = Path(__file__).parent / "corpus"
FOUND = Path(tempfile.gettempdir()) / "thalamus-fuzz"
APP = str(Path(__file__).resolve().parents[2] / "app")
MAX_BYTES = 4096

Target = Callable[[bytes], None]
Steps = set[tuple[str, int, int]]
"""From line to line of a file."""


def main(name: str, how: str = "60") -> None:
    for folder in (FOUND / name, CORPUS / name):
        folder.mkdir(parents=True, exist_ok=True)
    if how == "keep":
        keep(name)
    else:
        fuzz(name, int(how))


def fuzz(name: str, seconds: int) -> None:
    import atheris  # type: ignore[import-untyped]  # has none

    with atheris.instrument_imports(include=["app"]):
        target = _target(name)
    limits = [f"-max_len={MAX_BYTES}", "-timeout=2", "-rss_limit_mb=512", f"-max_total_time={seconds}"]
    folders = [str(FOUND / name), str(CORPUS / name)]
    atheris.Setup([sys.argv[0], f"-artifact_prefix={FOUND / name}/", *limits, *folders], target)
    atheris.Fuzz()


def keep(name: str) -> None:
    """Copy the smallest finds that take steps which no input of the corpus takes."""
    target, known = _target(name), Steps()
    for path in (CORPUS / name).iterdir():
        known |= steps(target, path.read_bytes())
    for path in sorted((FOUND / name).iterdir(), key=lambda found: found.stat().st_size):
        new = steps(target, data := path.read_bytes()) - known
        if new:
            known |= new
            (CORPUS / name / f"found-{path.name[:12]}").write_bytes(data)
            print(f"{path.name}: {len(new)} new steps")


def steps(target: Target, data: bytes) -> Steps:
    """The steps within `app` that a target takes with an input."""
    taken = Steps()

    def _enter(frame: FrameType, event: str, _: Any) -> Any:
        file, last = frame.f_code.co_filename, 0
        if not file.startswith(APP):
            return None

        def _step(frame: FrameType, event: str, _: Any) -> Any:
            nonlocal last
            taken.add((file, last, frame.f_lineno))
            last = frame.f_lineno
            return _step

        return _step

    sys.settrace(_enter)
    try:
        target(data)
    finally:
        sys.settrace(None)
    return taken


def _target(name: str) -> Target:
    target: Target = importlib.import_module("tests.fuzz.targets").TARGETS[name]
    return target


if __name__ == "__main__":
    main(*sys.argv[1:])
