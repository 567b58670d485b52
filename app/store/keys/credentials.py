"""Generated keys: how they look, and what is kept of them.

    rk_live_3fK9aQ0xLmZt_pS4...43 characters of secret..._1kX0aB
       |    |            |                               checksum of all before it
       |    public id    256 random bits
       environment

The checksum lets typing errors and garbage be dropped before anything is looked up, and scanners be sure of a leak. Of
the secret only an HMAC under a pepper is kept, and the pepper is kept elsewhere: who reads the store can call nobody.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import string
import zlib
from dataclasses import dataclass
from pathlib import Path

from app.errors import UsageError
from app.store.keys.key import Secret

_BASE62 = string.digits + string.ascii_letters
_FORM = re.compile(r"rk_[a-z][a-z0-9]{0,15}_([0-9A-Za-z]{12})_([0-9A-Za-z_-]{43})_([0-9A-Za-z]{6})", re.ASCII)
ENVIRONMENT = re.compile("[a-z][a-z0-9]{0,15}", re.ASCII)
NAME = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{0,64}")
"""What a key and its tenant may be called: one line, nothing that steers a terminal or cannot be printed."""
MOST_PEPPERS = 2
"""The one that new keys are made with, and the one before it."""


@dataclass(frozen=True, slots=True)
class Credential:
    """The parts of a generated key."""

    public: str
    secret: str


def issue(environment: str) -> tuple[str, Credential]:
    """A new key, as its holder gets it, and its parts."""
    made = Credential("".join(secrets.choice(_BASE62) for _ in range(12)), secrets.token_urlsafe(32))
    return reissued(environment, made), made


def reissued(environment: str, made: Credential) -> str:
    """How a key with these parts is written."""
    text = f"rk_{environment}_{made.public}_{made.secret}"
    return f"{text}_{_checksum(text)}"


def parsed(text: str) -> Credential | None:
    """The parts of a generated key; None for anything else."""
    match = _FORM.fullmatch(text)
    if match is None or not hmac.compare_digest(match[3], _checksum(text[:-7])):
        return None
    return Credential(match[1], match[2])


def _checksum(text: str) -> str:
    rest, digits = zlib.crc32(text.encode()), ""
    for _ in range(6):
        rest, digit = divmod(rest, 62)
        digits += _BASE62[digit]
    return digits


@dataclass(frozen=True, slots=True)
class Pepper:
    """A secret of the gateway."""

    value: Secret
    fingerprint: str
    """Tells peppers apart, and nothing else of them."""

    @classmethod
    def of(cls, value: str) -> Pepper:
        return cls(Secret(value), hashlib.sha256(b"thalamus pepper " + value.encode()).hexdigest()[:12])

    def digest(self, secret: str) -> bytes:
        return hmac.digest(self.value.reveal().encode(), secret.encode(), "sha256")


class PepperFile:
    """One pepper a line, the newest first. Its owner may read it, and its group, but nobody else."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> tuple[Pepper, ...]:
        """The peppers; none where there is no file.

        Raises:
            UsageError: others may read it, or it holds something else.
        """
        try:
            if self.path.stat().st_mode & 0o037:
                raise UsageError(f"{self.path}: others can read it; chmod 400 it")
            lines = self.path.read_text(encoding="ascii").split()
        except FileNotFoundError:
            return ()
        except (OSError, UnicodeDecodeError) as exc:
            raise UsageError(f"{self.path}: {getattr(exc, 'strerror', None) or 'expected hexadecimal digits'}") from exc
        if not 0 < len(lines) <= MOST_PEPPERS or not all(re.fullmatch("[0-9a-f]{64}", line) for line in lines):
            raise UsageError(f"{self.path}: expected one or two lines of 64 hexadecimal digits, the newest first")
        return tuple(Pepper.of(line) for line in lines)

    def create(self) -> Pepper:
        """A file with a new pepper, where there is none; else the newest one that is there.

        Raises:
            UsageError: it cannot be written.
        """
        made = secrets.token_hex(32)
        beside = self.path.with_name(f".pepper-{secrets.token_hex(4)}")
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(made + "\n")
                file.flush()
                os.fsync(file.fileno())
            # Of two processes that make one at the same time, the first wins.
            os.link(beside, self.path)
        except FileExistsError as exc:
            if there := self.read():
                return there[0]
            raise UsageError(f"{self.path.parent}: expected a folder, or nothing in its place") from exc
        except OSError as exc:
            raise UsageError(f"{self.path}: {exc.strerror}; it must be writable once, for a new pepper") from exc
        finally:
            beside.unlink(missing_ok=True)
        return Pepper.of(made)
