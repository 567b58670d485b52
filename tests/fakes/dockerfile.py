"""A Dockerfile as its stages and instructions: as much of the format as this project's file uses."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Instruction:
    """One of them, with its lines joined."""

    name: str
    """In upper case."""
    arguments: str

    @property
    def words(self) -> tuple[str, ...]:
        """Those that are no options, of the JSON form as well."""
        if self.arguments.startswith("["):
            return tuple(json.loads(self.arguments))
        return tuple(word for word in self.arguments.split() if not word.startswith("--"))

    def option(self, name: str) -> str | None:
        found = re.search(rf"--{name}=(\S+)", self.arguments)
        return found and found[1]

    @property
    def pairs(self) -> dict[str, str]:
        """Of ENV and ARG."""
        return {name: value for name, equals, value in (word.partition("=") for word in self.words) if equals}


@dataclass(frozen=True, slots=True)
class Stage:
    """From one FROM to the next."""

    name: str
    base: str
    """An image, or the name of a stage before this one."""
    instructions: tuple[Instruction, ...]

    def all(self, name: str) -> list[Instruction]:
        return [one for one in self.instructions if one.name == name]


def stages(dockerfile: Path) -> dict[str, Stage]:
    """By name, in their order."""
    found: dict[str, Stage] = {}
    for one in _instructions(dockerfile.read_text()):
        if one.name == "FROM":
            base, _, name = one.words
            found[name] = Stage(name, base, ())
        else:
            stage = found.popitem()[1]
            found[stage.name] = Stage(stage.name, stage.base, (*stage.instructions, one))
    return found


def _instructions(text: str) -> Iterator[Instruction]:
    lines = (line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#"))
    for whole in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        name, _, arguments = whole.strip().partition(" ")
        yield Instruction(name.upper(), arguments.strip())
