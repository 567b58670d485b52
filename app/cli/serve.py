"""`thalamus serve`: the gateway, in front of any OpenAI-compatible backends."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DEFAULT_CONFIG = Path("configs/gateway.yaml")


def serve(
    config: Annotated[Path, typer.Option(help="The gateway's YAML; it names the catalogue.")] = DEFAULT_CONFIG,
) -> None:
    """Answer requests until SIGTERM or Ctrl-C; what is in flight then is answered first.

    Example: `thalamus serve --config configs/gateway.yaml`
    """
    from app.main import serve as run
    from app.settings import load_settings

    run(load_settings(config))
