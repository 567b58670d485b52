"""`thalamus serve`: the gateway, in front of any OpenAI-compatible backends."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

DEFAULT_CONFIG = Path("configs/gateway.yaml")


def serve(
    config: Annotated[Path, typer.Option(help="The gateway's YAML; it names the catalogue.")] = DEFAULT_CONFIG,
    workers: Annotated[
        int | None, typer.Option(help="Processes that answer; as the YAML says if absent.", min=1, max=64)
    ] = None,
) -> None:
    """Answer requests until SIGTERM or Ctrl-C; what is in flight then is answered first. SIGHUP reads the files again.

    Example: `thalamus serve --config configs/gateway.yaml --workers 4`
    """
    open_streams()
    from app.settings import load_settings

    settings = load_settings(config)
    count = workers or settings.workers
    if count > 1:
        from app.crew.parent import serve as serve_together

        serve_together(settings, count)
    else:
        from app.main import serve as serve_alone

        serve_alone(settings)


def open_streams() -> None:
    """Have the three standard streams be open: what is opened next would else get the number of one that is closed."""
    with suppress(OSError):
        while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
            os.set_inheritable(descriptor, True)
        os.close(descriptor)
