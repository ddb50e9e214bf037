"""The manifest of a checkpoint: size and SHA-256 of every file, by which it is known to be whole.

Safetensors files carry no checksum, and a directory that exists may be half written: only one whose manifest is there
and agrees with all its files is a checkpoint.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, Callable, Dict, List, Mapping

from paddlenlp.utils.files import PathLike, atomic_write_json, fsync_file, fsync_folder, parse_json, sha256_file
from paddlenlp.utils.retries import retrying

MANIFEST = "manifest.json"
_VERSION = 1
_THREADS = min(4, os.cpu_count() or 1)


def write_manifest(folder: Path, step: int, known: Mapping[str, str]) -> None:
    """Sync everything in `folder` and write its manifest, last.

    `known` gives the hashes of files by name that were computed while writing; the others are read and hashed.
    """
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    files = {}
    for path in paths:
        name = path.relative_to(folder).as_posix()
        files[name] = {"size": path.stat().st_size, "sha256": known.get(name) or sha256_file(path)}
        fsync_file(path)
    for inner in {path.parent for path in paths}:
        fsync_folder(inner)
    atomic_write_json(folder / MANIFEST, {"version": _VERSION, "step": step, "files": files})


def verify(
    folder: PathLike,
    number: int = 0,
    count: int = 1,
    wanted: Callable[[str], bool] = lambda name: True,
    content: bool = True,
) -> List[str]:
    """What is wrong with checkpoint `folder`, one line each; empty if it is whole.

    Every file is read and compared with the manifest. Files that the manifest does not name are not looked at.

    Args:
        number, count: of `count` readers that each look at some of the files, which one this is.
        wanted: which files to look at, by the names in the manifest.
        content: false: compare sizes only, and read nothing.
    """
    folder = Path(folder)
    try:
        text = retrying(lambda: (folder / MANIFEST).read_text(encoding="utf-8"), folder / MANIFEST)
        named = _files(parse_json(text), folder)
        files = _share({name: entry for name, entry in named.items() if wanted(name)}, number, count)
    except FileNotFoundError:
        return [f"{MANIFEST} is missing: the checkpoint was not written to its end"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return [f"{MANIFEST} is damaged: {error}"]
    with ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(lambda item: _compare(folder, item[0], item[1], content), files.items())
        return [f"{name} {problem}" for name, problem in zip(files, found) if problem]


def _files(manifest: Any, folder: Path) -> Dict[str, Dict[str, Any]]:
    """The entries of `manifest`, if it is one for this folder; else ValueError, KeyError or TypeError."""
    if manifest["version"] != _VERSION:
        raise ValueError(f"version {manifest['version']!r}, this program reads {_VERSION}")
    if folder.resolve().name != f"checkpoint-{manifest['step']}":
        raise ValueError(f"it was written for step {manifest['step']}, the folder is {folder.name}")
    if not manifest["files"]:
        raise ValueError("it names no files")
    for name, entry in manifest["files"].items():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"it names {name!r}, outside of the checkpoint")
        if not isinstance(entry["size"], int) or not isinstance(entry["sha256"], str):
            raise ValueError(f"the entry of {name} has no size or hash")
    return manifest["files"]


def _share(files: Dict[str, Dict[str, Any]], number: int, count: int) -> Dict[str, Dict[str, Any]]:
    """Of all files those that reader `number` of `count` looks at: about the same number of bytes for each."""
    shares: List[Dict[str, Dict[str, Any]]] = [{} for _ in range(count)]
    loads = [0] * count
    for name, entry in sorted(files.items(), key=lambda item: (-item[1]["size"], item[0])):
        least = loads.index(min(loads))
        shares[least][name] = entry
        loads[least] += entry["size"]
    return shares[number]


def _compare(folder: Path, name: str, entry: Mapping[str, Any], content: bool) -> str:
    path = folder / name
    try:
        if folder.resolve() not in path.resolve().parents:
            return "is a link to something outside of the checkpoint"
        size = retrying(lambda: path.stat().st_size, path)
        if size != entry["size"]:
            return f"has {size:,} bytes, expected {entry['size']:,}"
        if content and retrying(lambda: sha256_file(path), path) != entry["sha256"]:
            return "does not have the content that was written (SHA-256 differs)"
        return ""
    except FileNotFoundError:
        return "is missing"
    except (OSError, ValueError) as error:  # a name that no file can have
        return f"cannot be read: {getattr(error, 'strerror', None) or error}"
