"""The command `thalamus`: one file per verb. A verb imports what it needs when it runs, so that help stays instant."""

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Sequence

import typer

from app.errors import UsageError

VERBS = (
    *("init", "serve", "keys", "journal", "demo", "explain"),
    *("collect", "train", "onboard", "evaluate", "check", "traffic"),
)

_FULL = (errno.ENOSPC, errno.EDQUOT)
_REMEDIES = {
    errno.ENOENT: "say where it is",
    errno.EEXIST: "name a folder, or a path where nothing is yet",
    errno.ENOTDIR: "name a folder, or a path where nothing is yet",
    errno.EISDIR: "name a file",
    errno.EACCES: "let this user read and write there, or name another path",
    errno.EPERM: "let this user read and write there, or name another path",
    errno.EROFS: "name a path that can be written to",
}

# Read when NumPy is first imported, which verbs do. Matrices are small here: a second BLAS thread spins for the few
# microseconds that a head takes (5.9 against 3.2 ms of CPU for a decision), and beside other work an exam is prepared
# in 7 s instead of 15.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def thalamus() -> None:
    """Send each prompt to the LLM that suits it best."""


for verb in VERBS:
    found = getattr(importlib.import_module(f"app.cli.{verb}"), verb)
    if isinstance(found, typer.Typer):
        app.add_typer(found, name=verb)
    else:
        app.command(name=verb)(found)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a verb; what an operator can change becomes one line on stderr and exit status 1."""
    try:
        app(arguments)
    except UsageError as exc:
        print(f"thalamus: {exc}", file=sys.stderr)
        raise SystemExit(1) from exc
    except OSError as exc:
        if (words := complaint_of(exc)) is None:
            raise
        print(f"thalamus: {words}", file=sys.stderr)
        raise SystemExit(1) from exc


def complaint_of(exc: OSError) -> str | None:
    """What to say of a file that could not be used; None where it is no file, so a fault of ours."""
    if exc.errno in _FULL:
        return f"{exc.filename or 'a file'}: {os.strerror(exc.errno)}; make room, and run this again"
    if exc.filename is None or isinstance(exc.filename, int):
        return None
    name = exc.filename.decode(errors="replace") if isinstance(exc.filename, bytes) else exc.filename
    return f"{name}: {exc.strerror}; {_REMEDIES.get(exc.errno or 0, 'name another path')}"
