"""The files in which runs keep their records: one for each run, that nobody else writes."""

import contextlib
import json
import math
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, cast

from lightning_diagnostics.diagnostics.expected_performance.trials import Trial
from lightning_diagnostics.findings.files import write_whole

FOLDER = "expected_performance"
"""The folder within a run's own that holds its record."""

_DEPTH = 8  # how far below a folder records are looked for: DATE/TIME/JOB/lightning_logs/version_3 and the like
_NOT_RUNS = {"checkpoints", "node_modules", "__pycache__"}  # and what begins with a dot
_MANY = 100  # files from which on several are read at a time
_READERS = 8  # a file of a network file system takes milliseconds, most of them waiting


# Writing.


def write(trial: Trial, folder: str) -> None:
    """Write a run's record into its folder, so that nobody reads half of it.

    Raises:
        OSError: if it cannot be written.
    """
    text = json.dumps(trial.to_dict(), indent=1, allow_nan=False)
    path = _path(trial, folder)
    if _is_address(path):
        files, place = _remote(path)
        files.makedirs(os.path.dirname(place), exist_ok=True)
        files.pipe_file(place, text.encode())
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    write_whole(path, text)


def remove(trial: Trial, folder: str) -> None:
    """Remove a run's record from its folder.

    Raises:
        OSError: if it cannot be removed.
    """
    path = _path(trial, folder)
    if _is_address(path):
        files, place = _remote(path)
        files.rm_file(place)
        return
    os.remove(path)


def _path(trial: Trial, folder: str) -> str:
    return f"{_local(folder).rstrip('/')}/{FOLDER}/{trial.run_id}.json"


# Reading.


@dataclass(frozen=True)
class Records:
    """What was read below a folder.

    Attributes:
        trials: One for each run, the oldest first.
        unreadable: Files that are no record of a run, with what is wrong with each.
        is_whole: Whether there was time for all of them.
    """

    trials: tuple[Trial, ...]
    unreadable: Mapping[str, str] = field(default_factory=dict[str, str])
    is_whole: bool = True


def read(root: str, *, within: float = math.inf) -> Records:
    """The records of all runs below a folder; runs may go on meanwhile.

    Of a run that was resumed in another folder the record that was written last is taken; runs that have departed from
    one checkpoint are trials of their own (`Trial.goes_on_with`).

    Args:
        root: The folder; an address such as ``s3://...``, too.
        within: Seconds after which it ends, whether all were read or not. Of a remote folder that is the reading: the
            list of its files comes whole.

    Raises:
        OSError: if there is no such folder, or it cannot be read.
    """
    end = time.monotonic() + within
    files, names = _files(root, end)
    parts: dict[str, list[Trial]] = {}
    unreadable: dict[str, str] = {}
    read = 0
    for name, content in zip(names, _contents(files, names), strict=True):
        if time.monotonic() > end:
            break
        read += 1
        if content is None:  # its run was deleted meanwhile
            continue
        try:
            trial = _parsed(content, folder=os.path.dirname(os.path.dirname(name)))
        except (ValueError, RecursionError) as error:
            unreadable[name] = str(error)
            continue
        parts.setdefault(trial.run_id, []).append(trial)
    trials = [trial for each in parts.values() for trial in _trials_of(each)]
    crowds = Counter(trial.folder for trial in trials)
    every = (replace(trial, is_crowded=True) if crowds[trial.folder] > 1 else trial for trial in trials)
    found = sorted(every, key=lambda each: (each.started, each.run_id))
    return Records(tuple(found), unreadable, read == len(names) and time.monotonic() <= end)


def _trials_of(records: list[Trial]) -> list[Trial]:
    """The trials that the records of one run are of: one, unless several runs have departed from its checkpoint."""
    trials: list[Trial] = []
    for record in sorted(records, key=lambda each: each.beat):
        trials = [each for each in trials if not record.goes_on_with(each)]
        trials.append(record)
    first, *others = trials
    return [first, *(replace(each, run_id=f"{each.run_id}-{index}") for index, each in enumerate(others, 1))]


def _files(root: str, end: float) -> tuple[Any, list[str]]:
    """The file system (None for the local one) and the paths of all records below a folder."""
    root = _local(root)
    if _is_address(root):
        files, place = _remote(root)
        files.invalidate_cache()  # of its listings: other processes have written since
        if not files.isdir(place):
            raise FileNotFoundError(f"folder {root!r}: no such folder")
        above = len(place.rstrip("/"))  # below it a path goes on as the address does
        return files, sorted(root.rstrip("/") + name[above:] for name in files.find(place) if _is_record(name))
    if not os.path.isdir(root):
        raise FileNotFoundError(f"folder {root!r}: no such folder")
    return None, sorted(_below(os.path.normpath(root), _DEPTH, end))


def _is_record(path: str) -> bool:
    folder, name = os.path.split(path)
    return name.endswith(".json") and os.path.basename(folder) == FOLDER


def _below(folder: str, depth: int, end: float) -> Iterator[str]:
    """The paths of the records below a folder of the local file system, as far as one comes until a time."""
    if time.monotonic() > end:
        return
    try:
        with os.scandir(folder) as entries:
            found = [entry for entry in entries if _may_hold_runs(entry)]
    except OSError:  # removed meanwhile, or not ours to read
        return
    for entry in found:
        with contextlib.suppress(OSError):
            if entry.name == FOLDER:
                yield from (path for path in _listed(entry.path) if _is_record(path))
            elif depth:
                yield from _below(entry.path, depth - 1, end)


def _may_hold_runs(entry: os.DirEntry[str]) -> bool:
    return entry.name not in _NOT_RUNS and not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False)


def _listed(folder: str) -> list[str]:
    return [os.path.join(folder, name) for name in os.listdir(folder)]


def _contents(files: Any, names: list[str]) -> Iterator[bytes | None]:
    """What is in each file, in their order."""
    if len(names) < _MANY:
        yield from (_content(files, name) for name in names)
        return
    with ThreadPoolExecutor(_READERS) as readers:
        yield from readers.map(lambda name: _content(files, name), names)


def _content(files: Any, path: str) -> bytes | None:
    """What is in a file; None if there is none any more."""
    try:
        if files is not None:
            return cast(bytes, files.cat_file(files._strip_protocol(path)))
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        return json.dumps({"error": str(error)}).encode()


def _refused(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


def _finite(word: str) -> float:
    value = float(word)
    if not math.isfinite(value):
        raise ValueError(f"{word} is too large")
    return value


def _parsed(content: bytes, *, folder: str) -> Trial:
    try:
        plain: Any = json.loads(content.decode(), parse_constant=_refused, parse_float=_finite)
    except ValueError as error:
        raise ValueError(f"is not JSON ({error})") from None
    if not isinstance(plain, dict):
        raise ValueError(f"holds {plain!r}: expected an object, the record of a run")
    words = cast(dict[str, Any], plain)
    if "run_id" not in words and "error" in words:
        raise ValueError(f"cannot be read ({words['error']})")
    return Trial.from_dict(words, folder=folder)


def _local(folder: str) -> str:
    """The path of a folder of this machine, where its address is given."""
    return folder.removeprefix("file://") if folder.startswith("file://") else folder


def _is_address(folder: str) -> bool:
    return "://" in folder


def _remote(address: str) -> tuple[Any, str]:
    """The file system of an address, and the path in it."""
    import fsspec

    return fsspec.core.url_to_fs(address)
