"""Real HAProxy and nginx in front of gateways, on a free loopback port."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from tests.conftest import ROOT, free_ports

# A server is out after two failed checks, so after a second at most; and has to be seen twice to be back.
HAPROXY = """
global
    maxconn 4000
defaults
    mode http
    timeout connect 2s
    timeout client 60s
    timeout server 60s
    timeout queue 5s
    timeout check 2s
    option redispatch
    retries 3
listen gateways
    bind 127.0.0.1:{port}
    balance roundrobin
    option httpchk GET /readyz
    http-check expect status 200
    default-server check inter 500ms fall 2 rise 2
    {servers}
"""
# It checks nothing: a server is out when it refuses connections.
NGINX = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 4000; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream gateways {{ {servers} }}
    server {{
        listen 127.0.0.1:{port};
        location / {{ proxy_pass http://gateways; proxy_buffering off; proxy_read_timeout 60s; }}
    }}
}}
"""

# With short times, and connections to the gateway that are kept and shared by all callers, as is usual.
IMPATIENT_HAPROXY = """
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
    server one {servers}
"""
IMPATIENT_NGINX = """
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
    upstream gateways {{ server {servers}; keepalive 16; }}
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

PACKAGES = {"haproxy": "haproxy", "nginx": "nginx-light"}
ARGUMENTS = {"haproxy": ("-db", "-f"), "nginx": ("-c",)}


@asynccontextmanager
async def in_front_of(gateway_url: str, program: str, folder: Path) -> AsyncIterator[str]:
    """The address of an impatient `haproxy` or `nginx` before this gateway, while the block runs."""
    form = IMPATIENT_HAPROXY if program == "haproxy" else IMPATIENT_NGINX
    async with _running(program, form, folder, urlsplit(gateway_url).netloc) as url:
        yield url


@asynccontextmanager
async def haproxy(folder: Path, gateways: Sequence[str]) -> AsyncIterator[str]:
    """The address of HAProxy in front of these addresses; it checks `/readyz`."""
    servers = "\n    ".join(f"server gateway{number} {address}" for number, address in enumerate(gateways))
    async with _running("haproxy", HAPROXY, folder, servers) as url:
        yield url


@asynccontextmanager
async def shipped_haproxy(folder: Path, gateways: Sequence[str]) -> AsyncIterator[str]:
    """The address of HAProxy with the file of `deploy/`, in front of these two addresses."""
    form = (ROOT / "deploy/haproxy/haproxy.cfg").read_text().replace("bind :8080", "bind 127.0.0.1:{port}")
    for number, address in enumerate(gateways, 1):
        form = form.replace(f"gateway-{number}:8080", address)
    async with _running("haproxy", form, folder, "") as url:
        yield url


@asynccontextmanager
async def nginx(folder: Path, gateways: Sequence[str]) -> AsyncIterator[str]:
    """The address of nginx in front of these addresses."""
    servers = " ".join(f"server {address} max_fails=1 fail_timeout=1s;" for address in gateways)
    async with _running("nginx", NGINX, folder, servers) as url:
        yield url


@asynccontextmanager
async def _running(name: str, form: str, folder: Path, servers: str) -> AsyncIterator[str]:
    command = shutil.which(name, path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    assert command, f"{name} is not installed: apt-get install {PACKAGES[name]}"
    (port,) = free_ports(1)
    config = folder / f"{name}.conf"
    config.write_text(form.format(port=port, folder=folder, servers=servers))
    with (folder / f"{name}.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(command, *ARGUMENTS[name], str(config), stdout=log, stderr=log)
    try:
        await _listening(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def _listening(port: int) -> None:
    async with asyncio.timeout(10):
        while True:
            with suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                await writer.wait_closed()
                return
            await asyncio.sleep(0.05)
