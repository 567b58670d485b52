"""The two files of a gateway: written from a draft, and edited when models have joined an artifact.

How it works: new texts are read as `thalamus serve` reads them, written beside the old ones, and only then moved in
place. A comment `guess:` stands behind each value that nobody stated or measured.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import YAMLError

from app.errors import UsageError
from app.forms.gateway_file import GatewayForm
from app.forms.yaml_files import load_form
from app.settings import Files, load_settings
from app.setup.commented import drop_guess, plain, read_commented, write_commented
from app.setup.draft import Draft
from app.setup.rendering import catalog_text, gateway_text

CATALOG, GATEWAY = "catalog.yaml", "gateway.yaml"


def write_files(
    folder: Path, draft: Draft, artifact: Path | None, *, shares_machine: bool = False, force: bool = False
) -> None:
    """Write `catalog.yaml` and `gateway.yaml`: both, or after a failure none.

    `shares_machine` where models run beside the gateway; `force` replaces files that are there.

    Raises:
        UsageError: a file is there already, cannot be written, or would not be accepted by `thalamus serve`.
    """
    refuse_existing(folder, force=force)
    day = datetime.now().astimezone().date()
    shown = None if artifact is None else path_from(folder, artifact)
    texts = {
        CATALOG: catalog_text(_seen_from(folder, draft), day),
        GATEWAY: gateway_text(draft, shown, day, shares_machine=shares_machine),
    }
    files = Files(texts[GATEWAY].encode(), texts[CATALOG].encode())
    load_settings(folder / GATEWAY, _every_variable(draft), files)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".init-") as beside:
            staged = {(folder / name).resolve(): Path(beside) / name for name in texts}
            for path, name in zip(staged.values(), texts, strict=True):
                path.write_text(texts[name], encoding="utf-8")
            _move(staged)
    except OSError as exc:
        # A disk that is full has no name of a file.
        raise UsageError(f"{exc.filename or folder}: {exc.strerror}; name another folder with --output") from exc


def refuse_existing(folder: Path, *, force: bool) -> None:
    """
    Raises:
        UsageError: a file that would be written is there already, and not to be replaced.
    """
    there = [str(folder / name) for name in (CATALOG, GATEWAY) if (folder / name).exists()]
    if there and not force:
        verb = "are" if len(there) > 1 else "is"
        raise UsageError(f"{' and '.join(there)} {verb} there already; --force replaces, --output names another folder")


def _seen_from(folder: Path, draft: Draft) -> Draft:
    """The draft with paths as a file in this folder names them."""
    backends = [
        replace(one, ca_file=path_from(folder, Path(one.ca_file))) if one.ca_file else one for one in draft.backends
    ]
    return replace(draft, backends=backends)


def _every_variable(draft: Draft) -> dict[str, str]:
    """An environment in which all keys are set: what is checked is the files."""
    keys = [key.get("secret_env") for key in draft.gateway.get("keys", [])]
    return {name: "set" for name in (*keys, *(one.key_env for one in draft.backends)) if name}


def adopt(config: Path, artifact: Path, columns: Mapping[str, str]) -> None:
    """Make a gateway use an artifact: `artifact` in its file, and each model's column in its catalogue.

    Comments and all else stay as they are; a comment that the old value was a guess goes. `columns` is the column by
    the model's name in the catalogue; models that it does not have keep theirs.

    Raises:
        UsageError: a file cannot be read or written, or a model is not in the catalogue; both files are then as before.
    """
    gateway, gateway_text = _read(config)
    catalog_path = config.parent / load_form(config, GatewayForm).catalog
    catalog, catalog_text = _read(catalog_path)
    models = {model["name"]: model for model in catalog["models"]}
    for name, column in columns.items():
        if name not in models:
            raise UsageError(f"{catalog_path}: the catalogue has no model {name!r}; it has {', '.join(models)}")
        _set(models[name], "predicted_as", column, after="backend")
    _set(gateway, "artifact", path_from(config.parent, artifact), after="catalog")
    # The catalogue first: a gateway that starts in between finds a column too many rather than none.
    texts = {catalog_path: write_commented(catalog, catalog_text), config: write_commented(gateway, gateway_text)}
    load_settings(config, files=Files(texts[config].encode(), texts[catalog_path].encode()))
    _replace(texts)


def path_from(folder: Path, target: Path) -> str:
    """How a file in a folder names a path: relatively inside the folder's parent, absolutely elsewhere."""
    folder, target = folder.resolve(), target.resolve()
    near = folder.parent != Path(folder.anchor) and target.is_relative_to(folder.parent)
    return Path(os.path.relpath(target, folder)).as_posix() if near else target.as_posix()


def _read(path: Path) -> tuple[Any, str]:
    try:
        text = path.read_text(encoding="utf-8")
        return read_commented(text), text
    except OSError as exc:
        raise UsageError(f"{path}: {exc.strerror}; say where it is with --config") from exc
    except (YAMLError, UnicodeDecodeError) as exc:
        raise UsageError(f"{path}: expected YAML in UTF-8") from exc


def _set(mapping: CommentedMap, key: str, value: str, after: str) -> None:
    if key in mapping:
        drop_guess(mapping, key)
        mapping[key] = plain(value)
        return
    keys = list(mapping)
    # What follows a mapping's last key, blank lines and comments, belongs to that key: a new one goes before it.
    place = keys.index(after) + 1 if after in keys[:-1] else len(keys) - 1
    mapping.insert(place, key, plain(value))


def _replace(texts: Mapping[Path, str]) -> None:
    """Write all new texts beside the old ones, then move them in place; after a failure none of them is."""
    staged: dict[Path, Path] = {}
    try:
        for path, text in texts.items():
            staged[path.resolve()] = _written_beside(path.resolve(), text)
        _move(staged)
    except OSError as exc:
        raise UsageError(f"{exc.filename}: {exc.strerror}") from exc
    finally:
        for beside in staged.values():
            beside.unlink(missing_ok=True)


def _written_beside(path: Path, text: str) -> Path:
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        shutil.copymode(path, name)
    except OSError as exc:
        Path(name).unlink()
        raise OSError(exc.errno, exc.strerror, str(path)) from exc
    return Path(name)


def _move(staged: Mapping[Path, Path]) -> None:
    before = {path: path.read_bytes() if path.exists() else None for path in staged}
    try:
        for path, beside in staged.items():
            beside.replace(path)
    except OSError:
        for path, content in before.items():
            if content is None:
                path.unlink(missing_ok=True)
            else:
                path.write_bytes(content)
        raise
