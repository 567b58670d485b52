"""What an engine would be told: Dockerfile and compose file by their linter and schema, and held against each other."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.settings import load_settings
from app.store.journal.kept import DAY_S
from app.store.journal.redis_journal import FOUND_FOR_DAYS
from tests.conftest import ROOT
from tests.fakes.dockerfile import Stage, stages

BIN = Path(sys.executable).parent
SECRETS = {"THALAMUS_KEY": "sk-a", "REDIS_PASSWORD": "b", "GRAFANA_PASSWORD": "c"}
CATALOGS = ("compose-catalog.yaml", "compose-gpu-catalog.yaml")
CONFIGS = ("compose.yaml", "compose-gpu.yaml")
RECORD_BYTES, DECISION_BYTES = 2_000, 210
"""Of Redis' memory."""
DECISIONS_PER_S = 40
"""All day long: more than the workers of these files answer."""

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
STAGES = stages(ROOT / "Dockerfile")
OWN = ("gateway-1", "gateway-2", "worker-base", "worker-small", "traffic")
WORKERS = {name for name in SERVICES if name.startswith("worker-")}
DOORS = {name for name in SERVICES if name.startswith("door-")}
DOOR = ROOT / "deploy/haproxy/workers.cfg"


def test_the_linter_of_dockerfiles_has_nothing_to_say() -> None:
    done = subprocess.run([BIN / "hadolint", "Dockerfile"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_compose_file_follows_the_published_schema() -> None:
    schema = ("--builtin-schema", "vendor.compose-spec")
    command = [str(BIN / "check-jsonschema"), *schema, "docker-compose.yml"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_schema_refuses_what_compose_does_not_know(tmp_path: Path) -> None:
    wrong = tmp_path / "compose.yml"
    wrong.write_text(yaml.safe_dump({"services": {"one": {"image": "x", "capdrop": ["ALL"]}}}))
    command = [str(BIN / "check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(wrong)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 1


def _sources(stage: Stage) -> Iterator[str]:
    copies = (one for one in stage.all("COPY") if not one.option("from"))
    return (source for copy in copies for source in copy.words[:-1])


def _is_sent(path: str) -> bool:
    """Whether .dockerignore leaves it in what the engine gets to see; the last pattern that fits decides."""
    sent = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern, wanted = line.strip().lstrip("!"), line.startswith("!")
        if pattern and not pattern.startswith("#") and (fnmatch(path, pattern) or path.startswith(f"{pattern}/")):
            sent = wanted
    return sent


@pytest.mark.parametrize("source", sorted({source for stage in STAGES.values() for source in _sources(stage)}))
def test_what_is_copied_is_there_and_sent_to_the_engine(source: str) -> None:
    assert (ROOT / source).exists()
    assert _is_sent(source)


@pytest.mark.parametrize(
    "path", [".git/config", ".env", ".venv/bin/python", "var/state/keys.sqlite", "tests/conftest.py"]
)
def test_what_is_no_part_of_an_image_is_not_sent(path: str) -> None:
    assert not _is_sent(path)


def test_bases_are_pinned_by_digest_and_the_gateway_has_none() -> None:
    bases = {stage.base for stage in STAGES.values()} - set(STAGES)
    assert STAGES["gateway"].base == "scratch"
    assert all(base == "scratch" or re.search(r"@sha256:[0-9a-f]{64}$", base) for base in bases)
    assert list(STAGES)[-1] == "gateway", "the last stage is what `docker build .` makes"


@pytest.mark.parametrize("stage", ["gateway", "worker-cpu"])
def test_images_run_as_nobody_and_say_whether_they_are_well(stage: str) -> None:
    (user,) = STAGES[stage].all("USER")
    assert user.arguments == "65534:65534"
    assert STAGES[stage].all("HEALTHCHECK")


def test_images_of_others_have_their_version() -> None:
    images = {service["image"] for service in SERVICES.values() if "build" not in service}
    assert all(re.search(r":v?\d+\.\d+\.\d+", image) for image in images), images
    worker = re.search(r'"vllm==([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    assert worker
    assert f"vllm/vllm-openai:v{worker[1]}" in images


def _binds() -> Iterator[tuple[str, str]]:
    for name, service in SERVICES.items():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            if source.startswith("."):
                yield name, source.removeprefix("./")


@pytest.mark.parametrize(("service", "source"), list(_binds()))
def test_what_is_mounted_is_there_and_read_only(service: str, source: str) -> None:
    (volume,) = (volume for volume in SERVICES[service]["volumes"] if volume.startswith(f"./{source}:"))
    assert volume.endswith(":ro")
    assert (ROOT / source).exists()


def test_named_volumes_and_networks_are_declared() -> None:
    volumes = {
        volume.split(":")[0] for one in SERVICES.values() for volume in one.get("volumes", ()) if volume[0] != "."
    }
    networks = {network for one in SERVICES.values() for network in one["networks"]}
    assert volumes == set(COMPOSE["volumes"])
    assert networks == set(COMPOSE["networks"])


@pytest.mark.parametrize("name", SERVICES)
def test_services_are_confined(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    if not name.startswith("worker-gpu"):  # what that image writes, and where, could not be tried
        assert service["read_only"]
        assert service["mem_limit"]
        assert service["pids_limit"]


@pytest.mark.parametrize("name", SERVICES)
def test_only_the_proxy_and_grafana_are_published_and_on_loopback(name: str) -> None:
    ports = SERVICES[name].get("ports", [])
    assert bool(ports) == (name in ("proxy", "grafana"))
    assert all(port.startswith("127.0.0.1:") for port in ports)


@pytest.mark.parametrize("name", SERVICES)
def test_no_secret_is_in_a_command_line(name: str) -> None:
    service = SERVICES[name]
    said = json.dumps([service.get("command"), service.get("entrypoint"), service.get("healthcheck")])
    assert not re.search(r"(?<!\$)\$\{?[A-Z_]*(KEY|PASSWORD|TOKEN)", said), "compose would put its value there"
    for variable in SECRETS:
        value = service.get("environment", {}).get(variable)
        assert value is None or value == f"${{{variable}:?set it in .env}}"


def test_the_example_environment_has_every_variable_of_the_compose_file() -> None:
    used = set(re.findall(r"(?<!\$)\$\{([A-Z_]+)", (ROOT / "docker-compose.yml").read_text()))
    lines = (ROOT / ".env.example").read_text().splitlines()
    given = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert used | {"COMPOSE_PROFILES"} == set(given)
    assert {name for name in given if not given[name]} == {*SECRETS, "HF_TOKEN"}
    assert (ROOT / "configs" / given["THALAMUS_CONFIG"]).exists()


@pytest.mark.parametrize("config", CONFIGS)
def test_the_gateways_configuration_fits_the_network_of_compose(config: str) -> None:
    settings = load_settings(ROOT / "configs" / config, SECRETS)
    workers = {url.split("/")[2].split(":")[0] for one in settings.catalog.backends for url in one.urls}
    assert workers <= set(SERVICES)
    (subnet,) = (part["subnet"] for part in COMPOSE["networks"]["inside"]["ipam"]["config"])
    assert {cidr for one in settings.catalog.backends for cidr in one.allow_cidr} == {subnet}
    assert ip_network(subnet).is_private
    assert settings.store == "redis://redis:6379/0"
    assert settings.artifact
    assert (settings.artifact / "manifest.json").exists()
    grace = settings.limits.accept_s + settings.limits.drain_s + 10
    assert all(SERVICES[name]["stop_grace_period"] == f"{grace:g}s" for name in ("gateway-1", "gateway-2"))


@pytest.mark.parametrize("config", CONFIGS)
def test_what_the_gateways_keep_fits_in_redis(config: str) -> None:
    keep = load_settings(ROOT / "configs" / config, SECRETS).journal
    assert keep.records
    found_for_s = min(keep.days, FOUND_FOR_DAYS) * DAY_S
    kept_bytes = keep.records * RECORD_BYTES + found_for_s * DECISIONS_PER_S * DECISION_BYTES
    told = re.search(r"^maxmemory (\d+)gb$", (ROOT / "deploy/redis/redis.conf").read_text(), re.MULTILINE)
    assert told
    room_bytes = int(told[1]) << 30
    assert kept_bytes < 0.8 * room_bytes
    assert int(SERVICES["redis"]["mem_limit"].removesuffix("m")) << 20 >= 2.2 * room_bytes


@pytest.mark.parametrize("name", sorted(WORKERS))
def test_workers_share_no_network_with_anything_but_each_other_and_the_doors_to_them(name: str) -> None:
    beside = {other for other, one in SERVICES.items() if set(one["networks"]) & set(SERVICES[name]["networks"])}
    assert beside == WORKERS | DOORS


def test_only_gpu_workers_have_a_way_out_for_their_downloads() -> None:
    leads_out = {name for name, network in COMPOSE["networks"].items() if not (network or {}).get("internal")}
    out = {name for name, one in SERVICES.items() if set(one["networks"]) & leads_out}
    assert out == {"proxy", "grafana"} | {name for name in WORKERS if "gpu" in name}


@pytest.mark.parametrize("catalog", CATALOGS)
def test_the_doors_lead_where_the_catalogues_say(catalog: str) -> None:
    leads = _doors()
    for url in _urls(catalog):
        worker, _, port = url.removeprefix("http://").partition(":")
        (door,) = (name for name in DOORS if worker in SERVICES[name]["networks"]["inside"]["aliases"])
        assert SERVICES[door]["profiles"] == SERVICES[worker]["profiles"]
        (alias,) = SERVICES[worker]["networks"]["workers"]["aliases"]
        listens_at = "8000" if "gpu" in worker else SERVICES[worker]["command"][-1]
        assert leads.pop(port) == (alias, listens_at)


def test_the_doors_lead_to_workers_only_and_pass_their_own_check() -> None:
    aliases = {alias for name in WORKERS for alias in SERVICES[name]["networks"]["workers"]["aliases"]}
    assert {alias for alias, _ in _doors().values()} == aliases
    done = subprocess.run([_installed("haproxy"), "-c", "-f", str(DOOR)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _doors() -> dict[str, tuple[str, str]]:
    """Where each port of a door leads: a name in the workers' network, and a port there."""
    found = re.findall(r"^    bind :(\d+)\n    server \S+ (\S+):(\d+)$", DOOR.read_text(), re.MULTILINE)
    assert len(found) == len(re.findall(r"^    server ", DOOR.read_text(), re.MULTILINE))
    return {port: (name, there) for port, name, there in found}


def test_compose_and_the_demo_have_the_same_models() -> None:
    assert _config("compose-catalog.yaml")["models"] == _config("demo-catalog.yaml")["models"]
    ours, demo = _config("compose.yaml"), _config("demo.yaml")
    assert [ours[key] for key in ("scales", "profiles")] == [demo[key] for key in ("scales", "profiles")]


def _config(name: str) -> Any:
    return _yaml(ROOT / "configs" / name)


def _yaml(file: Path) -> Any:
    return yaml.safe_load(file.read_text())


def test_real_models_are_served_as_the_catalogue_says() -> None:
    settings = load_settings(ROOT / "configs" / "compose-gpu.yaml", SECRETS)
    by_backend = {one.name: one.urls[0].split("/")[2].split(":")[0] for one in settings.catalog.backends}
    for model in settings.catalog.models:
        command = SERVICES[by_backend[model.backend]]["command"]
        assert command[0] == model.served_as
        assert f"--max-model-len={model.card.context_tokens}" in command


def test_the_proxy_knows_the_gateways_and_passes_its_own_check() -> None:
    file = ROOT / "deploy/haproxy/haproxy.cfg"
    servers = re.findall(r"^    server (\S+) (\S+)", file.read_text(), re.MULTILINE)
    gateways = ("gateway-1", "gateway-2")
    assert servers == [(f"{name}{suffix}", f"{name}:8080") for suffix in ("", "-anyway") for name in gateways]
    program = _installed("haproxy")
    done = subprocess.run([program, "-c", "-f", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_prometheus_asks_gateways_and_workers_of_compose_and_passes_its_own_check() -> None:
    folder = ROOT / "deploy/prometheus"
    jobs = _yaml(folder / "prometheus.yml")["scrape_configs"]
    targets = {target for file in folder.glob("targets/*.yml") for one in _yaml(file) for target in one["targets"]}
    # Names that do not run are no targets: the workers of the profile that is off.
    named = [one for job in jobs for one in job.get("dns_sd_configs", ())]
    targets |= {f"{name}:{one['port']}" for one in named for name in one["names"]}
    workers = {url.removeprefix("http://") for name in CATALOGS for url in _urls(name)}
    assert targets == {"gateway-1:8081", "gateway-2:8081"} | workers
    program = _installed("promtool")
    command = [program, "check", "config", str(folder / "prometheus.yml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_prometheus_takes_the_alertmanager_that_stands_there_as_a_comment(tmp_path: Path) -> None:
    folder = shutil.copytree(ROOT / "deploy/prometheus", tmp_path / "prometheus")
    text = (folder / "prometheus.yml").read_text()
    comment = text[text.index("# alerting:") : text.index("\nscrape_configs:")]
    (folder / "prometheus.yml").write_text(text.replace(comment, re.sub(r"(?m)^# ", "", comment)))
    (manager,) = _yaml(folder / "prometheus.yml")["alerting"]["alertmanagers"]
    assert manager["static_configs"] == [{"targets": ["alertmanager:9093"]}]
    command = [_installed("promtool"), "check", "config", str(folder / "prometheus.yml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _installed(program: str) -> str:
    found = shutil.which(program, path="/usr/sbin:/usr/bin:/usr/local/bin")
    if not found:
        pytest.skip(f"{program} is not installed")
    return found


def _urls(catalog: str) -> list[str]:
    return [url for backend in _config(catalog)["backends"] for url in backend["urls"]]


@pytest.mark.parametrize("name", ["worker-base", "worker-small"])
def test_a_worker_listens_and_is_looked_after_where_the_catalogue_says(name: str) -> None:
    (url,) = (url for url in _urls("compose-catalog.yaml") if name in url)
    port = url.rpartition(":")[2]
    assert SERVICES[name]["command"][-1] == port
    (check,) = STAGES["worker-cpu"].all("HEALTHCHECK")
    assert f"127.0.0.1:{port}/health" in str(SERVICES[name].get("healthcheck", check.arguments))
