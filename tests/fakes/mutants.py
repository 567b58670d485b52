"""Configurations that differ a little from a good one: some good in another way, most of them wrong."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

Content = dict[str, Any]


@dataclass(frozen=True)
class Mutant:
    """The two files, and whether they are wrong."""

    gateway: bytes
    catalog: bytes
    is_wrong: bool
    what: str


def _weights(gateway: Content, _: Content, rng: random.Random) -> None:
    gateway["profiles"]["default"] = {"weights": {"cost": round(rng.random(), 3)}}


def _limits(gateway: Content, _: Content, rng: random.Random) -> None:
    gateway["limits"] = {**gateway.get("limits", {}), "in_flight": rng.randint(500, 900)}
    gateway["upstream"] = {**gateway["upstream"], "max_attempts": rng.randint(1, 5)}


def _other_models(_: Content, catalog: Content, rng: random.Random) -> None:
    kept = [one for one in catalog["models"] if one["name"] == "small"]
    catalog["models"] = [*kept, *({**kept[0], "name": f"extra-{n}"} for n in range(rng.randint(0, 5)))]
    catalog["backends"] = [one for one in catalog["backends"] if one["name"] == "small"]


def _more_urls(_: Content, catalog: Content, rng: random.Random) -> None:
    catalog["backends"][0]["max_connections"] = rng.randint(50, 300)


GOOD: tuple[Callable[[Content, Content, random.Random], None], ...] = (_weights, _limits, _other_models, _more_urls)

WRONG: Mapping[str, Callable[[Content, Content], object]] = {
    "a setting that does not exist": lambda gateway, _: gateway.update(spead=1),
    "a limit below zero": lambda gateway, _: gateway.update(limits={"in_flight": -1}),
    "a text for a number": lambda gateway, _: gateway.update(limits={"drain_s": "long"}),
    "no number at all": lambda gateway, _: gateway.update(limits={"drain_s": float("nan")}),
    "a profile with an unknown dimension": lambda gateway, _: gateway["profiles"].update(x={"weights": {"coast": 1}}),
    "an order with an unknown model": lambda gateway, _: gateway["profiles"].update(x={"order": ["nobody"]}),
    "a scale with equal ends": lambda gateway, _: gateway.update(scales={"cost_usd": [0.1, 0.1]}),
    "a scale with swapped ends": lambda gateway, _: gateway.update(scales={"cost_usd": [0.0001, 0.1]}),
    "a key twice": lambda gateway, _: gateway["keys"].append(gateway["keys"][0]),
    "a key without a secret": lambda gateway, _: gateway["keys"].append({"id": "x"}),
    "a secret that is not there": lambda gateway, _: gateway["keys"].append({"id": "x", "secret_env": "NOT_THERE"}),
    "a scope that does not exist": lambda gateway, _: gateway["keys"].append(
        {"id": "x", "secret": "x", "scopes": ["y"]}
    ),
    "another address": lambda gateway, _: gateway.update(listen="127.0.0.1:1"),
    "another admin address": lambda gateway, _: gateway.update(admin_listen="127.0.0.1:1"),
    "open to the network with plain secrets": lambda gateway, _: gateway.update(listen="0.0.0.0:1"),
    "a catalogue that is not there": lambda gateway, _: gateway.update(catalog="nowhere.yaml"),
    "an artifact that is not there": lambda gateway, _: gateway.update(artifact="nowhere-v1"),
    "a model without a backend": lambda _, catalog: catalog["models"][0].update(backend="nobody"),
    "a model twice": lambda _, catalog: catalog["models"].append(catalog["models"][0]),
    "a card without a context length": lambda _, catalog: catalog["models"][0].update(card={}),
    "a negative price": lambda _, catalog: catalog["models"][0].update(price={"input_usd_per_m": -1}),
    "a URL of a file": lambda _, catalog: catalog["backends"][0].update(urls=["file:///etc/passwd"]),
    "an address of the cloud's metadata": lambda _, catalog: catalog["backends"][0].update(
        urls=["http://169.254.169.254"]
    ),
    "no URLs": lambda _, catalog: catalog["backends"][0].update(urls=[]),
    "a key of a backend that is not there": lambda _, catalog: catalog["backends"][0].update(key_env="NOT_THERE"),
    "a certificate that is not there": lambda _, catalog: catalog["backends"][0].update(ca_file="nowhere.pem"),
    "no models": lambda _, catalog: catalog.update(models="none"),
}


def mutant(gateway: Content, catalog: Content, number: int) -> Mutant:
    """The mutant with this number; `served_as` of the model `small` tells good ones apart."""
    rng = random.Random(number)
    gateway, catalog = copy.deepcopy(gateway), copy.deepcopy(catalog)
    rng.choice(GOOD)(gateway, catalog, rng)
    catalog["models"][0]["served_as"] = f"org/small-{number}"
    kind = rng.random()
    what = "good"
    if 0.3 <= kind < 0.8:
        what = rng.choice(list(WRONG))
        WRONG[what](gateway, catalog)
    files = [yaml.safe_dump(gateway).encode(), yaml.safe_dump(catalog).encode()]
    if kind >= 0.8:
        what = rng.choice(["cut", "not UTF-8", "a tab", "twice", "empty"])
        which = rng.randrange(2)
        files[which] = _damaged(files[which], what, rng)
    return Mutant(files[0], files[1], what != "good", what)


def _damaged(content: bytes, how: str, rng: random.Random) -> bytes:
    if how == "cut":
        # In the middle of the first key that has more than a word.
        return content[: content.index(b":") - 1]
    place = rng.randrange(len(content))
    damages = {
        "not UTF-8": content[:place] + b"\xff\xfe" + content[place:],
        "a tab": b"\t- x: [\n" + content,
        "twice": content + content,
        "empty": b"",
    }
    return damages[how]
