"""`thalamus demo`: real models on real vLLM workers, a router trained on their answers, and the gateway, right here."""

from __future__ import annotations

import asyncio
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from app.cli.processes import Children
from app.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]
WORKER_PYTHON = ROOT / ".venv-vllm/bin/python"
CONFIG = ROOT / "configs/demo.yaml"
GATEWAY = "http://127.0.0.1:8080"
KEY = "sk-demo"
"""The demo's only key, in plain text in its configuration: its listener is on loopback."""
WORKERS = {"base": 8101, "small": 8102}
"""Worker kinds of deploy/vllm/serve.sh, and the ports that the demo's catalogue names."""
READY_WITHIN_S = 180.0
"""Two workers are ready after 15 to 30 s on two idle cores."""


def demo(
    items: Annotated[int, typer.Option(help="Fresh graded items per skill family.", min=1, max=50)] = 4,
    seed: Annotated[int | None, typer.Option(help="Seed of the items; a new one at each run if absent.")] = None,
    leave: Annotated[bool, typer.Option("--exit", help="Stop everything after the summary.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Run everything on this machine: nine small real models on two vLLM workers, a router trained on their graded
    answers, the gateway. Routes fresh prompts of each skill, prints who answered and why, and stays up.

    Example: `thalamus demo --items 10 --seed 7`
    """
    from app.cli.showcase import Rivals, Showcase
    from app.settings import load_settings

    if not WORKER_PYTHON.exists():
        raise UsageError("the workers' environment .venv-vllm is missing; `make demo` makes it")
    # Whoever asks the demo to end means all it started, also where a shell has made background jobs deaf to Ctrl-C.
    for asked_to_end in (signal.SIGINT, signal.SIGTERM):
        signal.signal(asked_to_end, signal.default_int_handler)
    rivals = Rivals.of(load_settings(CONFIG))
    begin = time.monotonic()
    subprocess.run([str(WORKER_PYTHON), str(ROOT / "deploy/demo/build_models.py")], check=True, cwd=ROOT)  # noqa: S603
    try:
        with Children(ROOT / "var/log") as children:
            print("Starting two vLLM workers and the gateway ...", file=sys.stderr)
            for kind, port in WORKERS.items():
                command = [str(ROOT / "deploy/vllm/serve.sh"), kind, str(port)]
                children.start(f"worker-{kind}", command, f"http://127.0.0.1:{port}/health")
            # Callers of a gateway whose workers do not answer yet hear 503.
            children.wait_until_ready(READY_WITHIN_S)
            gateway = [sys.executable, "-m", "app.cli", "serve", "--config", str(CONFIG)]
            children.start("gateway", gateway, f"{GATEWAY}/readyz")
            children.wait_until_ready(READY_WITHIN_S)
            print(f"Up after {time.monotonic() - begin:.0f} s.", file=sys.stderr)
            showcase = Showcase(GATEWAY, KEY, rivals, secrets.randbelow(10**6) if seed is None else seed)
            asyncio.run(showcase.run(items, as_json=as_json))
            if not leave:
                _stay_up(children)
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)


def _stay_up(children: Children) -> None:
    """Wait for Ctrl-C, or for a program that ends by itself."""
    print(f"""
The gateway stays up at {GATEWAY}/v1 (Ctrl-C stops everything). Try:

  curl -si {GATEWAY}/v1/chat/completions -H 'authorization: Bearer {KEY}' -H 'content-type: application/json' \\
    -d '{{"model": "auto", "temperature": 0, "messages": [{{"role": "user", "content": "What is 12 + 30?"}}]}}'
""")
    while True:
        if ended := children.ended():
            raise UsageError(f"{ended.name} ended with status {ended.process.returncode}; see {ended.log}")
        time.sleep(0.5)
