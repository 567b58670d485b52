"""An operator's files: what is right becomes settings, what is wrong is said with file, key and what was expected."""

from __future__ import annotations

import math
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.api.bodies.parameters import EXTRAS
from app.domain.models import MOST_TOKENS_PER_IMAGE, TokenPrice
from app.domain.vocabulary import VOCABULARY
from app.errors import UsageError
from app.forms.catalog_file import load_catalog
from app.settings import Address, load_settings
from app.store.keys.key import Budget
from tests.fakes.deployment import write_config

ROOT = Path(__file__).resolve().parents[3]
ENVIRONMENT = {"THALAMUS_KEY": "sk-from-the-environment", "PAID_KEY": "sk-paid"}
URLS = {"small": "http://127.0.0.1:9001"}


def complaint(path: Path, environment: Mapping[str, str] = ENVIRONMENT) -> list[str]:
    """What is wrong, without the path."""
    with pytest.raises(UsageError) as caught:
        load_settings(path, environment)
    return [line.removeprefix(f"{path.parent}/") for line in str(caught.value).splitlines()]


@pytest.mark.parametrize("name", ["gateway.yaml", "bench.yaml", "demo.yaml"])
def test_the_files_that_are_shipped_are_right(name: str) -> None:
    settings = load_settings(ROOT / "configs" / name, ENVIRONMENT)
    assert settings.listen.is_loopback
    assert settings.catalog.models


def test_what_is_left_out_takes_what_the_commented_file_shows(tmp_path: Path) -> None:
    """The comments of gateway.yaml promise that each value shown is the default."""
    shown = yaml.safe_load((ROOT / "configs/gateway.yaml").read_text())
    shipped = load_settings(ROOT / "configs/gateway.yaml", ENVIRONMENT)
    path = write_config(tmp_path, URLS, upstream={}, limits={}, profiles={}, keys=[])
    left_out = load_settings(path)
    assert set(shown["upstream"]) == {
        "connect_timeout_s",
        "pool_wait_s",
        "first_byte_timeout_s",
        "idle_timeout_s",
        "total_timeout_s",
        "max_attempts",
        "hedge",
    }
    assert (left_out.timeouts, left_out.max_attempts, left_out.hedge, left_out.limits) == (
        shipped.timeouts,
        shipped.max_attempts,
        shipped.hedge,
        shipped.limits,
    )
    assert (left_out.listen, left_out.admin_listen) == (shipped.listen, shipped.admin_listen)
    assert (left_out.encoder, left_out.predictor_limit_s) == (shipped.encoder, shipped.predictor_limit_s)
    for dimension, scale in shipped.scales.items():
        assert VOCABULARY.dimension[dimension].scale == scale


def test_a_catalogue_becomes_models_and_backends(tmp_path: Path) -> None:
    write_config(tmp_path, URLS)
    catalog = load_catalog(tmp_path / "catalog.yaml")
    (model,) = catalog.models
    assert (model.name, model.served_as, model.backend, model.predicted_as) == ("small", "org/small", "small", None)
    assert model.card.capabilities == {
        "chat",
        "completion",
        "tools",
        "json_schema",
        "logprobs",
        "responses",
        "embeddings",
    }
    assert model.card.values["parameters_b"] == 8
    assert model.card.values["released"] == 739370
    assert "security" not in model.card.values
    assert model.card.tokens_per_image == MOST_TOKENS_PER_IMAGE
    assert catalog.backends[0].urls == ("http://127.0.0.1:9001",)


def test_a_card_may_say_what_a_picture_takes(tmp_path: Path) -> None:
    write_config(tmp_path, URLS)
    content = yaml.safe_load((tmp_path / "catalog.yaml").read_text())
    content["models"][0]["card"]["tokens_per_image"] = 1_500
    (tmp_path / "catalog.yaml").write_text(yaml.safe_dump(content))
    assert load_catalog(tmp_path / "catalog.yaml").models[0].card.tokens_per_image == 1_500


def test_a_self_hosted_models_price_follows_from_its_rent(tmp_path: Path) -> None:
    write_config(tmp_path, URLS)
    content = yaml.safe_load((tmp_path / "catalog.yaml").read_text())
    content["models"][0]["price"] = {"self_hosted": {"usd_per_gpu_hour": 3.6, "gpus": 2, "tokens_per_s": 2000}}
    (tmp_path / "catalog.yaml").write_text(yaml.safe_dump(content))
    # 7.2 USD an hour are 0.002 USD a second, for 2,000 tokens.
    assert load_catalog(tmp_path / "catalog.yaml").models[0].price == pytest.approx(TokenPrice(1.0, 1.0, 1.0))


KEY: Mapping[str, Any] = {"id": "a", "secret": "sk-a", "models": ["*"]}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"liste": "127.0.0.1:1"}, "gateway.yaml: liste: is not a key; did you mean listen?"),
        (
            {"listen": "8080"},
            "gateway.yaml: listen: expected an address and a port, such as 127.0.0.1:8080, got '8080'",
        ),
        (
            {"listen": "127.0.0.1:8081"},
            "gateway.yaml: admin_listen: 127.0.0.1:8081 is taken by listen; give it another port",
        ),
        ({"admin_listen": "0.0.0.0:8080"}, "admin_listen: 0.0.0.0:8080 is taken by listen"),
        ({"admin_listen": "localhost:8080"}, "admin_listen: localhost:8080 is taken by listen"),
        (
            {"state_dir": "catalog.yaml"},
            "catalog.yaml is a file; name a folder, or a path where nothing is yet",
        ),
        ({"state_dir": "catalog.yaml/state"}, "catalog.yaml is a file; name a folder"),
        ({"catalog": "nope.yaml"}, "nope.yaml: No such file or directory; say where it is with `catalog` in "),
        ({"listen": "example.com:80"}, "listen: expected an IP address before the port"),
        ({"listen": "0.0.0.0:80"}, "keys[0].secret: plain text is for listeners on loopback only; use secret_env"),
        ({"predictor_limit_s": 0}, "predictor_limit_s: expected greater than 0, got 0"),
        ({"upstream": {"max_attempts": 9}}, "upstream.max_attempts: expected less than or equal to 5, got 9"),
        ({"upstream": {"retries": 1}}, "upstream.retries: is not a key; known are connect_timeout_s"),
        ({"scales": {"cost": [1, 2]}}, "energy_wh, each with its worst and its best end, got cost"),
        ({"scales": {"cost_usd": 0.1}}, "scales: cost_usd: expected [worst, best], got 0.1"),
        (
            {"scales": {"cost_usd": [1, 1]}},
            "scales: cost_usd: expected [worst, best], both a number above 0, and different, got [1, 1]",
        ),
        ({"scales": {"cost_usd": [math.nan, 1]}}, "both a number above 0, and different, got [nan, 1]"),
        ({"scales": {"cost_usd": [0.1, 0]}}, "both a number above 0, and different, got [0.1, 0]"),
        ({"scales": {"released": ["soon", "later"]}}, "scales: released: expected [worst, best], both a day such as"),
        (
            {"scales": {"cost_usd": [0.0001, 0.1]}},
            "scales: cost_usd: expected [worst, best], where cheaper is better: [0.1, 0.0001], got [0.0001, 0.1]",
        ),
        (
            {"scales": {"released": ["2027-01-01", "2023-01-01"]}},
            "scales: released: expected [worst, best], where more recent is better: [2023-01-01, 2027-01-01], got",
        ),
        (
            {"scales": {"security": ["isolated", "public_api"]}},
            "where more secure is better: [public_api, isolated], got [isolated, public_api]",
        ),
        ({"profiles": {"x": {"order": ["nope"]}}}, "profiles.x.order: the catalogue has no model 'nope'"),
        ({"baseline": "nope"}, "baseline: the catalogue has no model 'nope'"),
        ({"profiles": {"x": {"weights": {"coast": 1}}}}, "profiles.x: routing.weights.coast does not exist"),
        ({"profiles": {"x": {"limits": {"max_size_b": "big"}}}}, "profiles.x: routing.max_size_b must be a number"),
        ({"profiles": {"x": {"limits": {"explain": True}}}}, "profiles.x: expected limits and weights only"),
        (
            {"profiles": {"x": {"weights": {"cost": 1}, "max_quality_loss": 0.1}}},
            "profiles.x: routing.weights.cost and routing.max_quality_loss say the same",
        ),
        ({"keys": [{**KEY, "secret_env": "A"}]}, "keys[0]: expected either secret_env"),
        ({"keys": [{"id": "a"}]}, "keys[0]: expected either secret_env"),
        ({"keys": [{"id": "a", "secret_env": "NOPE"}]}, "keys[0].secret_env: the environment has no NOPE"),
        ({"keys": [{**KEY, "scopes": ["admin"]}]}, "keys[0].scopes[0]: expected one of admin:config, admin:keys"),
        ({"keys": [{**KEY, "may_set": ["speed"]}]}, "keys[0].may_set: there is no 'speed'; known are"),
        ({"keys": [{**KEY, "routing": {"max_cost": 1}}]}, "keys[0].routing: routing.max_cost does not exist"),
        ({"keys": [{**KEY, "budget": {"usd": -1}}]}, "keys[0].budget.usd: expected greater than or equal to 0, got -1"),
        ({"keys": [{**KEY, "budget": {"usd": 1, "per": "week"}}]}, "keys[0].budget.per: expected 'day' or 'month'"),
        ({"keys": [{**KEY, "expires_at": "2027-01-01T00:00"}]}, "keys[0].expires_at: "),
        ({"keys": [{**KEY, "source_cidrs": ["10.0.0.1/8"]}]}, "keys[0].source_cidrs[0]"),
        ({"keys": [{**KEY, "concurrency": 0}]}, "keys[0].concurrency: expected greater than 0, got 0"),
        ({"keys": [KEY, KEY]}, "keys: the id 'a' occurs twice"),
        ({"keys": 5}, "keys: expected a list of objects with fields such as models, profiles"),
        (
            {"keys": [{**KEY, "budget": 5}]},
            "keys[0].budget: expected an object with fields such as usd, per, hard, got",
        ),
        ({"keys": [{**KEY, "models": "*"}]}, 'keys[0].models: expected a list, such as ["one", "another"]'),
        ({"keys": [{**KEY, "tenant": "x" * 65}]}, "keys[0].tenant: expected a text of at most 64 characters"),
        ({"keys": [{**KEY, "expires_at": "soon"}]}, "keys[0].expires_at: expected a time with its zone, such as 2027"),
        ({"workers": "many"}, "workers: expected a whole number, such as 8, got 'many'"),
        ({"profiles": [1]}, 'profiles: expected an object, such as {"name": "value"}'),
        ({"catalog": 5}, "catalog: expected a path, got 5"),
        ({"catalog": "nowhere.yaml"}, "nowhere.yaml: No such file or directory"),
    ],
)
def test_what_is_wrong_in_the_gateways_file_is_said_where(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    assert any(says in line for line in complaint(write_config(tmp_path, URLS, **changes)))


SAME = "gateway.yaml: keys: 'a' and 'b' have the same secret; give each key its own"


@pytest.mark.parametrize(
    ("one", "other", "says"),
    [
        ({"secret": "hunter2"}, {"secret": "hunter2"}, [SAME]),
        ({"secret": "hunter2"}, {"secret_env": "A"}, [SAME]),
        ({"secret_env": "A"}, {"secret_env": "B"}, [SAME]),
        (
            {"secret_env": "NOPE"},
            {"secret_env": "NOPE"},
            [
                "gateway.yaml: keys[0].secret_env: the environment has no NOPE; set it to the key's secret",
                "gateway.yaml: keys[1].secret_env: the environment has no NOPE; set it to the key's secret",
                SAME,
            ],
        ),
    ],
)
def test_no_two_keys_have_one_secret(
    tmp_path: Path, one: dict[str, str], other: dict[str, str], says: list[str]
) -> None:
    path = write_config(tmp_path, URLS, keys=[{"id": "a", **one}, {"id": "b", **other}])
    assert complaint(path, {"A": "hunter2", "B": "hunter2"}) == says


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"store": "redis://:hunter2@redis:6379/0"}, "store: "),
        ({"store": "redis://redis:6379/0?password=hunter2"}, "store: "),
        ({"store": "hunter2"}, "store: "),
        ({"store_password_env": ["hunter2"]}, "store_password_env: "),
        ({"store_password_env": "hunter2"}, "store_password_env: "),
        ({"store_password_env": 1532}, "store_password_env: "),
        ({"pepper_file": 1532}, "pepper_file: "),
        ({"keys": "hunter2"}, "keys: "),
        ({"keys": 1532}, "keys: "),
        ({"keys": ["hunter2"]}, "keys[0]: "),
        ({"keys": [1532]}, "keys[0]: "),
        ({"keys": [{**KEY, "scopes": "hunter2"}]}, "keys[0].scopes: "),
        ({"keys": [{"id": "a", "secret_env": 1532}]}, "keys[0].secret_env: "),
        ({"keys": [{"id": "a", "secret_env": "hunter2"}]}, "keys[0].secret_env: "),
        ({"baseline": {"http://me:hunter2@host": 1}}, "baseline: "),
        ({"listen": "http://me:hunter2@host"}, "listen: "),
    ],
)
def test_what_may_be_a_secret_is_not_repeated(tmp_path: Path, changes: dict[str, Any], place: str) -> None:
    lines = complaint(write_config(tmp_path, URLS, **changes))
    assert any(f"gateway.yaml: {place}" in line for line in lines)
    assert not any("hunter2" in line or "1532" in line for line in lines)


@pytest.mark.parametrize(
    ("field", "value"), [("key_env", "hunter2"), ("key_env", 1532), ("urls", "http://me:hunter2@host")]
)
def test_what_may_be_a_secret_of_a_backend_is_not_repeated(tmp_path: Path, field: str, value: object) -> None:
    path = write_config(tmp_path, URLS)
    said = yaml.safe_load((tmp_path / "catalog.yaml").read_text())
    said["backends"][0][field] = value
    (tmp_path / "catalog.yaml").write_text(yaml.safe_dump(said))
    lines = complaint(path)
    assert any(f"backends[0].{field}: " in line for line in lines)
    assert not any("hunter2" in line or "1532" in line for line in lines)


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        (
            ("models", 0, "card", "colour"),
            "red",
            "catalog.yaml: models[0].card.colour: is not a key; known are capabilities",
        ),
        (("models", 0, "card", "context_tokens"), 0, "models[0].card.context_tokens: expected greater than 0, got 0"),
        (
            ("models", 0, "card", "tokens_per_image"),
            0,
            "models[0].card.tokens_per_image: expected greater than 0, got 0",
        ),
        (("models", 0, "card", "capabilities"), ["sing"], "models[0].card.capabilities[0]: expected 'chat'"),
        (
            ("models", 0, "card", "regions"),
            "eu",
            'models[0].card.regions: expected a list, such as ["one", "another"], got \'eu\'',
        ),
        (("models", 0, "card"), "small", "models[0].card: expected an object with fields such as "),
        (("backends", 0, "urls"), "http://h:1", "backends[0].urls: expected a list"),
        (("models", 0, "card", "released"), "spring", "models[0].card.released: expected a day such as"),
        (("models", 0, "card", "security"), "high", "models[0].card.security: expected one of public_api"),
        (("models", 0, "card", "parameters_b"), -1, "models[0].card.parameters_b: expected a number above 0, got -1"),
        (("models", 0, "backend"), "nowhere", "models[0].backend: there is no backend 'nowhere'; there are small"),
        (("models", 0, "name"), "auto", "models[0].name: expected letters, digits"),
        (("models", 0, "name"), "auto:x", "models[0].name: expected letters, digits"),
        (("models", 0, "price"), {"input_usd_per_m": 1}, "models[0].price: expected either self_hosted, or"),
        (("models", 0, "speed"), {}, "models[0].speed.prefill_tokens_per_s: is missing"),
        (("backends", 0, "kind"), "ollama", "backends[0].kind: expected 'vllm' or 'openai', got 'ollama'"),
        (("backends", 0, "urls"), [], "backends[0].urls: "),
        (("backends", 0, "key_env"), "NOPE", "backends[0].key_env: the environment has no NOPE"),
    ],
)
def test_what_is_wrong_in_the_catalogue_is_said_where(
    tmp_path: Path, place: tuple[str | int, ...], value: Any, says: str
) -> None:
    path = write_config(tmp_path, URLS)
    content = yaml.safe_load((tmp_path / "catalog.yaml").read_text())
    inner: Any = content
    for part in place[:-1]:
        inner = inner[part]
    inner[place[-1]] = value
    (tmp_path / "catalog.yaml").write_text(yaml.safe_dump(content))
    assert any(says in line for line in complaint(path))


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    path = write_config(tmp_path, URLS, encoder="fast", admin_listen="x", keys=[{"id": "", "secret": "s"}])
    assert [line.partition(": ")[2].partition(":")[0] for line in complaint(path)] == [
        "admin_listen",
        "encoder",
        "keys[0].id",
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("listen: 127.0.0.1:1\nlisten: 127.0.0.1:2\n", "line 2 column 1: the key 'listen' occurs twice"),
        ("limits: {body_bytes: 5000, body_bytes: 6000}\n", "the key 'body_bytes' occurs twice"),
        ("listen: [", "line 1 column 10: "),
        ("- a\n- b\n", "the file: expected an object with fields such as listen, admin_listen"),
        ("", "catalog: is missing"),
        ("x: !!python/object/apply:os.system ['true']\n", "could not determine a constructor"),
    ],
)
def test_yaml_that_says_too_little_or_two_things_is_refused(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(text)
    assert any(says in line for line in complaint(path))


def test_a_limit_that_is_absent_takes_its_default_and_null_is_none(tmp_path: Path) -> None:
    bare, free = {**KEY}, {**KEY, "id": "b", "secret": "sk-b", "requests_per_minute": None, "concurrency": None}
    settings = load_settings(write_config(tmp_path, URLS, keys=[bare, free]))
    (_, first), (_, second) = settings.keys
    assert (first.requests_per_minute, first.tokens_per_minute, first.concurrency) == (60, 100_000, 8)
    assert (second.requests_per_minute, second.tokens_per_minute, second.concurrency) == (None, 100_000, None)


def test_a_key_says_who_it_is_for_and_how_long(tmp_path: Path) -> None:
    said = {"budget": {"usd": 5, "per": "month", "hard": False}, "expires_at": "2027-01-01T00:00:00Z"}
    more = {"source_cidrs": ["10.0.0.0/8", "::1/128"], "tenant": "research", "keeps_bodies": True}
    (_, key), (_, bare), (_, free) = load_settings(
        write_config(
            tmp_path,
            URLS,
            keys=[
                {**KEY, **said, **more},
                {**KEY, "id": "b", "secret": "sk-b"},
                {**KEY, "id": "c", "secret": "sk-c", "budget": None},
            ],
        )
    ).keys
    assert (key.budget, key.expires_at) == (Budget(5.0, "month", hard=False), 1_798_761_600.0)
    assert (key.source_cidrs, key.tenant) == ((ip_network("10.0.0.0/8"), ip_network("::1/128")), "research")
    assert (bare.budget, bare.expires_at, bare.keeps_bodies) == (Budget(10.0, "day", hard=True), None, False)
    assert free.budget is None


def test_secrets_come_from_the_environment_and_do_not_show(tmp_path: Path) -> None:
    key = {"id": "a", "secret_env": "THALAMUS_KEY", "models": ["*"]}
    settings = load_settings(write_config(tmp_path, URLS, listen="0.0.0.0:8080", keys=[key]), ENVIRONMENT)
    assert settings.keys[0][0].reveal() == "sk-from-the-environment"
    assert "sk-" not in repr(settings)


def test_a_secret_in_a_wrong_file_does_not_show(tmp_path: Path) -> None:
    lines = complaint(write_config(tmp_path, URLS, keys=[{**KEY, "secret_env": "X", "budget": 1}]))
    assert "sk-a" not in " ".join(lines)


@pytest.mark.parametrize(
    ("text", "host", "loopback"),
    [
        ("127.0.0.1:80", "127.0.0.1", True),
        ("[::1]:80", "::1", True),
        ("10.0.0.1:80", "10.0.0.1", False),
        ("localhost:80", "localhost", True),
    ],
)
def test_an_address_is_read_as_host_and_port_and_written_as_it_was(text: str, host: str, loopback: bool) -> None:
    address = Address.parse(text)
    assert (address.host, address.port, address.is_loopback, str(address)) == (host, 80, loopback, text)


def renaming(folder: Path, **rename: str | None) -> Path:
    write_config(folder, {"small": "http://127.0.0.1:9001"})
    path = folder / "catalog.yaml"
    content = yaml.safe_load(path.read_text())
    content["backends"][0]["rename"] = rename
    path.write_text(yaml.safe_dump(content))
    return path


def test_a_field_may_have_another_name_or_be_left_out(tmp_path: Path) -> None:
    (backend,) = load_catalog(renaming(tmp_path, max_tokens="max_completion_tokens", temperature=None)).backends
    assert backend.rename == {"max_tokens": "max_completion_tokens", "temperature": None}


@pytest.mark.parametrize(
    ("field", "capability"), [("tools", "tools"), ("response_format", "json_schema"), ("logprobs", "logprobs")]
)
def test_models_cannot_do_what_takes_a_field_that_is_left_out(tmp_path: Path, field: str, capability: str) -> None:
    (model,) = load_catalog(renaming(tmp_path, **{field: None})).models
    assert model.card.capabilities == {
        "chat",
        "completion",
        "tools",
        "json_schema",
        "logprobs",
        "responses",
        "embeddings",
    } - {capability}


def test_models_can_do_all_they_could_without_what_is_vllms_own(tmp_path: Path) -> None:
    before = load_catalog(renaming(tmp_path)).models
    assert load_catalog(renaming(tmp_path, **dict.fromkeys(EXTRAS))).models == before


@pytest.mark.parametrize(
    ("field", "theirs", "says"),
    [
        ("messages", "turns", "this field has the same name everywhere; leave it out"),
        ("model", None, "this field has the same name everywhere; leave it out"),
        ("max_tokens", None, "expected the backend's own name of it; without it answers have no bound"),
        ("temperature", "", "expected the backend's own name of it, or null to leave it out"),
    ],
)
def test_a_rename_that_cannot_be_meant_is_refused(tmp_path: Path, field: str, theirs: str | None, says: str) -> None:
    path = renaming(tmp_path, **{field: theirs})
    with pytest.raises(UsageError) as caught:
        load_catalog(path)
    assert str(caught.value) == f"{path}: backends[0].rename.{field}: {says}"
