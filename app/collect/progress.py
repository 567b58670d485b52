"""How far a collection is, as a log that only grows: what makes it resumable after any kind of death.

The first line says which plan it belongs to; each further line is a reply, a failure, a score of a grading command or
what was spent before. A plan with fewer of its models goes on from it too: what the others answered stays in the log,
and what it cost counts. A line is handed to the kernel as soon as it is made, so a killed process loses nothing, and
`sync` (once a second) bounds what a crashed machine loses. A last line without its end is cut off when the log is
opened again. Later lines replace earlier ones of the same request: a failure that was asked again and answered is
answered.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from app.collect.locking import hold
from app.collect.plan import Key
from app.errors import UsageError

FILE_NAME = "journal.jsonl"
_BEGINNING = b'{"plan": {'
STOPPED = "stopped"
"""Stands in place of a failure's reason where the request ended with its run, which says nothing of the endpoint."""


@dataclass(frozen=True)
class Reply:
    """What a model answered to one prompt, and what that took."""

    prompt_id: str
    model: str
    answer: str
    finish_reason: str | None
    input_tokens: int | None
    output_tokens: int | None
    latency_s: float
    mean_logprob: float | None
    attempts: int = 1
    lost_attempts: int = 0
    """Attempts before this one that failed, yet may have been charged for."""

    @property
    def key(self) -> Key:
        return self.prompt_id, self.model


class Progress:
    """The log in one folder, open for writing by one process.

    Raises:
        UsageError: another process is writing to it, it belongs to another plan or is no log, a line in it is damaged,
            or its file system keeps no locks.
        OSError: it cannot be written, with its name; what it has stays whole.
    """

    def __init__(self, folder: Path, header: Mapping[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / FILE_NAME
        if not self.path.exists() and (folder / "outcomes.parquet").exists():
            raise UsageError(f"{folder} already holds a dataset; choose another --output")
        self.replies: dict[Key, Reply] = {}
        self.failures: dict[Key, str] = {}
        self.other_usd = 0.0
        """What was paid for anything but `replies`."""
        self.left_out: set[str] = set()
        """Models that answered and are not in this plan."""
        self._models = header.get("models")
        self.scores: dict[tuple[str, str, str], float] = {}
        self._fd = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        self._unsynced = False
        try:
            self._take(header)
        except BaseException:
            os.close(self._fd)
            raise

    def _take(self, header: Mapping[str, Any]) -> None:
        folder = self.path.parent
        hold(self._fd, folder, f"another collection is writing to {folder}; wait for it")
        content = self.path.read_bytes()
        # Before anything is cut off: somebody's own file may have this name.
        if not (content.startswith(_BEGINNING) or _BEGINNING.startswith(content)):
            raise UsageError(f"{self.path} does not begin with a plan; choose another --output")
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.ftruncate(self._fd, whole)
        lines = content[:whole].splitlines()
        if not lines:
            self._append({"plan": dict(header)})
            return
        found = self._parse(1, lines[0])["plan"]
        if len(lines) == 1 and not _goes_on_from(found, header):
            # Nothing was ever asked, so the plan may still change.
            os.ftruncate(self._fd, 0)
            self._append({"plan": dict(header)})
            return
        _check_header(found, header, self.path.parent)
        for number, line in enumerate(lines[1:], start=2):
            self._replay(number, self._parse(number, line))

    def _parse(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            entry = json.loads(line)
        except ValueError as exc:
            raise UsageError(f"{self.path}, line {number} is damaged; delete that line to ask it again") from exc
        return entry if isinstance(entry, dict) else {}

    def _replay(self, number: int, entry: dict[str, Any]) -> None:
        try:
            if "reply" in entry:
                self._keep(Reply(**entry["reply"]), float(entry["usd"]))
            elif "failure" in entry:
                self._lose((entry["prompt_id"], entry["model"]), str(entry["failure"]), float(entry["lost_usd"]))
            elif "earlier_usd" in entry:
                self.other_usd += float(entry["earlier_usd"])
            else:
                self.scores[entry["prompt_id"], entry["model"], entry["graded_by"]] = float(entry["score"])
        except (KeyError, TypeError, ValueError) as exc:
            raise UsageError(f"{self.path}, line {number} is damaged; delete that line to ask it again") from exc

    def _keep(self, reply: Reply, usd: float) -> None:
        if self._is_asked(reply.model):
            self.replies[reply.key] = reply
            self.failures.pop(reply.key, None)
        else:
            self.left_out.add(reply.model)
            self.other_usd += usd

    def _is_asked(self, model: str) -> bool:
        return self._models is None or model in self._models

    def add_reply(self, reply: Reply, usd: float = 0.0) -> None:
        """Keep a reply for good, and what it cost, which no plan without its model could say."""
        self._append({"reply": asdict(reply), "usd": usd})
        self._keep(reply, usd)

    def add_failure(self, key: Key, reason: str, lost_usd: float) -> None:
        """Note that a request got no answer, and what that may have cost; the next run asks it again."""
        self._append({"prompt_id": key[0], "model": key[1], "failure": reason, "lost_usd": lost_usd})
        self._lose(key, reason, lost_usd)

    def add_stopped(self, key: Key, lost_usd: float) -> None:
        """Note what a request may have cost that was cut off with its run; else it is as if it had not been asked."""
        self.add_failure(key, STOPPED, lost_usd)

    def _lose(self, key: Key, reason: str, lost_usd: float) -> None:
        self.other_usd += lost_usd
        self.failures.pop(key, None)
        if reason != STOPPED and self._is_asked(key[1]):
            self.failures[key] = reason

    def add_earlier(self, usd: float) -> None:
        """Note what was spent on answers that are in another log."""
        self._append({"earlier_usd": usd})
        self.other_usd += usd

    def add_score(self, key: Key, graded_by: str, score: float) -> None:
        """Keep what a grading command said; `graded_by` identifies the command, its files and what it read."""
        self._append({"prompt_id": key[0], "model": key[1], "graded_by": graded_by, "score": score})
        self.scores[*key, graded_by] = score

    def _append(self, entry: Mapping[str, Any]) -> None:
        line = json.dumps(entry, ensure_ascii=True).encode() + b"\n"
        written = 0
        try:
            while written < len(line):
                written += os.write(self._fd, line[written:])
        except OSError as exc:
            # Else the next line would go on where this one was torn, and neither could be read.
            os.ftruncate(self._fd, os.fstat(self._fd).st_size - written)
            raise self._named(exc) from exc
        self._unsynced = True

    def _named(self, exc: OSError) -> OSError:
        return OSError(exc.errno, exc.strerror, str(self.path))

    def sync(self) -> None:
        """Have everything so far on disk."""
        if self._unsynced:
            self._unsynced = False
            try:
                os.fsync(self._fd)
            except OSError as exc:
                raise self._named(exc) from exc

    def close(self) -> None:
        """Sync and let another process have the folder."""
        try:
            self.sync()
        finally:
            os.close(self._fd)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def replies_in(folder: Path) -> list[Reply]:
    """The replies that a log has, whatever plan it belongs to; none where there is no log.

    Raises:
        UsageError: a line in it is damaged.
    """
    return list({reply.key: reply for reply, _ in _lines(folder) if reply is not None}.values())


def spent_in(folder: Path) -> float:
    """What all that a log has cost when it was asked, whatever plan it belongs to; nothing where there is no log.

    Raises:
        UsageError: a line in it is damaged.
    """
    return sum(usd for _, usd in _lines(folder))


def _lines(folder: Path) -> list[tuple[Reply | None, float]]:
    """Of each line the reply, if it is one, and what it says was paid."""
    path = folder / FILE_NAME
    if not path.exists():
        return []
    found = []
    content = path.read_bytes()
    for number, line in enumerate(content[: content.rfind(b"\n") + 1].splitlines(), start=1):
        try:
            entry = json.loads(line)
            usd = sum(float(entry[name]) for name in ("usd", "lost_usd", "earlier_usd") if name in entry)
            found.append((Reply(**entry["reply"]) if "reply" in entry else None, usd))
        except (ValueError, TypeError) as exc:
            raise UsageError(f"{path}, line {number} is damaged; delete that line to ask it again") from exc
    return found


def _goes_on_from(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether a log with the plan `found` has these prompts, and these models at least."""
    differing = {name for name in wanted if found.get(name) != wanted[name]}
    return not differing or (differing == {"models"} and _models(wanted).items() <= _models(found).items())


def _check_header(found: Mapping[str, Any], wanted: Mapping[str, Any], folder: Path) -> None:
    if _goes_on_from(found, wanted):
        return
    differ = "models" if found.get("prompts_sha256") == wanted.get("prompts_sha256") else "prompts"
    raise UsageError(
        f"{folder} holds another collection: {found.get('prompts')} prompts over {', '.join(sorted(_models(found)))}; "
        f"the {differ} differ. Choose another --output"
    )


def _models(header: Mapping[str, Any]) -> Mapping[str, str]:
    models = header.get("models")
    return models if isinstance(models, Mapping) else {}
