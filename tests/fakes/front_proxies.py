"""Real HAProxy and nginx from Debian in front of a gateway, in the foreground, with a configuration of their own."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.conftest import free_ports

_HAPROXY = """
global
    maxconn 2000
defaults
    mode http
    timeout connect 2s
    timeout client 2s
    timeout http-request 1s
    timeout server 4s
    http-reuse always
frontend callers
    bind 127.0.0.1:{port}
    default_backend gateways
backend gateways
    server one {gateway}
"""
_NGINX = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr crit;
events {{ worker_connections 2000; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    client_header_timeout 1s;
    client_body_timeout 1s;
    client_max_body_size 64m;
    upstream gateways {{ server {gateway}; keepalive 16; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://gateways;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
            proxy_buffering off;
        }}
    }}
}}
"""
_COMMANDS: Mapping[str, tuple[str, str, Callable[[Path], list[str]]]] = {
    "haproxy": ("haproxy", _HAPROXY, lambda config: ["-f", str(config), "-db"]),
    "nginx": ("nginx-light", _NGINX, lambda config: ["-e", "stderr", "-p", str(config.parent), "-c", str(config)]),
}


@asynccontextmanager
async def in_front_of(gateway_url: str, program: str, folder: Path) -> AsyncIterator[str]:
    """The address of `haproxy` or `nginx` before this gateway, while the block runs. Connections to the gateway are
    kept and shared by all callers, as is usual."""
    package, config_text, arguments = _COMMANDS[program]
    path = shutil.which(program, path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin:/opt/homebrew/bin")
    if path is None:
        pytest.fail(f"{program} is not installed: apt-get install {package}")
    (port,) = free_ports(1)
    config = folder / f"{program}.conf"
    config.write_text(config_text.format(port=port, gateway=urlsplit(gateway_url).netloc, folder=folder))
    with (folder / f"{program}.log").open("wb") as log:
        process = subprocess.Popen([path, *arguments(config)], stdout=log, stderr=log)
    try:
        await _until_it_listens(port, process, folder / f"{program}.log")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


async def _until_it_listens(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(200):
        if process.poll() is not None:
            pytest.fail(f"{process.args!r} ended at once: {log.read_text()[-2000:]}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        await asyncio.sleep(0.05)
    pytest.fail(f"{process.args!r} does not listen on {port}: {log.read_text()[-2000:]}")
