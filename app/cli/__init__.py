"""The command `thalamus`: one file per verb. A verb imports what it needs when it runs, so that help stays instant."""

from __future__ import annotations

import importlib
import importlib.util
import sys

import typer

from app.errors import UsageError

VERBS = (
    *("init", "serve", "keys", "journal", "demo", "explain"),
    *("collect", "train", "onboard", "evaluate", "check", "traffic"),
)

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def thalamus() -> None:
    """Send each prompt to the LLM that suits it best."""


for verb in VERBS:
    if importlib.util.find_spec(f"app.cli.{verb}"):
        found = getattr(importlib.import_module(f"app.cli.{verb}"), verb)
        if isinstance(found, typer.Typer):
            app.add_typer(found, name=verb)
        else:
            app.command(name=verb)(found)


def main() -> None:
    """Run a verb; a `UsageError` becomes one line on stderr and exit status 1."""
    try:
        app()
    except UsageError as exc:
        print(f"thalamus: {exc}", file=sys.stderr)
        raise SystemExit(1) from exc
