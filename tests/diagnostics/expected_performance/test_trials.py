"""The record file and its reading: what comes back, what is refused, and what is not a record at all."""

import json
import math
import os
import threading
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from lightning_diagnostics.diagnostics.expected_performance import records
from lightning_diagnostics.diagnostics.expected_performance.records import FOLDER, read, write
from lightning_diagnostics.diagnostics.expected_performance.trials import Trial
from tests.diagnostics.expected_performance.models import trial

WHOLE = Trial(
    run_id="ab12",
    metric="val_acc",
    mode="max",
    status="failed",
    reason="RuntimeError",
    score=0.1 + 0.2,
    score_step=17,
    readings=3,
    sweep='ß/\u2028 "quoted"',
    sweep_from="sweep=",
    number="4",
    search="random",
    started="2030-01-01T00:00:00.123+00:00",
    seconds=1e-7,
    devices=8,
    hyperparameters={"lr": 1e-300, "name": "a\nb", "nothing": None, "yes": True, "half": "\ud800"},
    seed=0,
    training_samples=10**12,
    validation_samples=0,
    tests=1,
    beat=1_900_000_000.123456,
    silence=61.5,
    host="here",
    pid=1,
    kernel="boot pid:[1]",
    born=9,
)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    write(WHOLE, str(tmp_path / "run"))
    assert read(str(tmp_path)).trials == (replace(WHOLE, folder=str(tmp_path / "run")),)
    json.loads((tmp_path / "run" / FOLDER / "ab12.json").read_text(), parse_constant=pytest.fail)  # no NaN in it


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"metric": None}, "metric is None: expected a text"),
        ({"metric": 3}, "metric is 3: expected a text"),
        ({"mode": "largest"}, "mode is 'largest': expected one of min, max"),
        ({"status": "lost"}, "status is 'lost': expected one of running, completed, failed, pruned"),
        ({"score": "good"}, "score is 'good': expected a number or null"),
        ({"score": True}, "score is True: expected a number or null"),
        ({"score": float("nan")}, "is not JSON (NaN is no JSON)"),
        ({"beat": float("inf")}, "is not JSON (Infinity is no JSON)"),
        ({"pid": 1.5}, "pid is 1.5: expected a whole number"),
        ({"hyperparameters": []}, "hyperparameters is []: expected an object"),
    ],
    ids=str,
)
def test_what_is_no_record_is_refused_with_the_value_and_left_out(
    change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    write(trial("good"), str(tmp_path / "good"))
    place = tmp_path / "bad" / FOLDER
    place.mkdir(parents=True)
    (place / "bad.json").write_text(json.dumps({**trial("bad").to_dict(), **change}))
    found = read(str(tmp_path))
    assert [each.run_id for each in found.trials] == ["good"]
    assert found.unreadable == {str(place / "bad.json"): words}


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"null", b"3", b"\xff\xfe", b"{}", b"[" * 100_000, b"NaN"])
def test_a_file_of_another_kind_is_told_of_and_left_out(content: bytes, tmp_path: Path) -> None:
    write(trial("good"), str(tmp_path / "good"))
    (tmp_path / "good" / FOLDER / "other.json").write_bytes(content)
    found = read(str(tmp_path))
    assert [each.run_id for each in found.trials] == ["good"]
    assert list(found.unreadable) == [str(tmp_path / "good" / FOLDER / "other.json")]


def test_a_record_of_a_later_version_is_read_as_far_as_it_is_known(tmp_path: Path) -> None:
    place = tmp_path / FOLDER
    place.mkdir()
    (place / "a.json").write_text(json.dumps({**trial("a").to_dict(), "version": 2, "more": {"x": 1}}))
    (found,) = read(str(tmp_path)).trials
    assert found == replace(trial("a"), folder=str(tmp_path))


def test_records_are_found_at_any_depth_and_drafts_and_other_folders_are_not_read(tmp_path: Path) -> None:
    for place in (
        "a",
        "b/lightning_logs/version_0",
        "hparams",
        "wandb",
        "2030-01-01/12-00-00/3/lightning_logs/version_1",
        ".",
    ):
        write(trial(f"in-{place.replace('/', '-')}"), os.path.normpath(str(tmp_path / place)))
    for place in ("a/checkpoints", "a/.hidden"):
        write(trial("passed-over"), str(tmp_path / place))
    (tmp_path / "a" / FOLDER / "x.json.123.tmp").write_text("{")
    (tmp_path / "a" / "settings.json").write_text("{}")
    found = read(str(tmp_path))
    assert found.unreadable == {}
    assert len(found.trials) == 6
    assert "passed-over" not in {each.run_id for each in found.trials}


def test_a_circle_of_links_ends(tmp_path: Path) -> None:
    write(trial("a"), str(tmp_path / "a"))
    (tmp_path / "a" / "back").symlink_to(tmp_path)
    _, names = records._files(str(tmp_path), math.inf)
    assert names == [str(tmp_path / "a" / FOLDER / "a.json")]


def test_of_one_run_in_two_folders_the_last_word_counts(tmp_path: Path) -> None:
    write(trial("a", beat=20.0, score=0.2), str(tmp_path / "version_0"))
    write(trial("a", beat=10.0, score=0.1), str(tmp_path / "version_1"))
    (found,) = read(str(tmp_path)).trials
    assert (found.score, found.folder) == (0.2, str(tmp_path / "version_0"))


def test_the_oldest_comes_first(tmp_path: Path) -> None:
    for number, started in enumerate(("2030-01-03", "2030-01-01", "2030-01-02")):
        write(trial(str(number), started=started), str(tmp_path / f"version_{number}"))
    assert [each.run_id for each in read(str(tmp_path)).trials] == ["1", "2", "0"]


@pytest.mark.parametrize("root", ["missing", "file"])
def test_no_folder_is_an_error(root: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        read(str(tmp_path / root))


def test_an_empty_folder_has_no_records(tmp_path: Path) -> None:
    assert read(str(tmp_path)).trials == ()


def test_folders_that_vanish_meanwhile_are_no_fault(tmp_path: Path) -> None:
    done = threading.Event()

    def churn() -> None:
        while not done.is_set():
            write(trial("b"), str(tmp_path / "b"))
            (tmp_path / "b" / FOLDER / "b.json").unlink()
            (tmp_path / "b" / FOLDER).rmdir()

    write(trial("a"), str(tmp_path / "a"))
    churning = threading.Thread(target=churn)
    churning.start()
    try:
        for _ in range(200):
            found = read(str(tmp_path))
            assert found.unreadable == {}
            assert {each.run_id for each in found.trials} in ({"a"}, {"a", "b"})
    finally:
        done.set()
        churning.join()


def test_a_write_that_fails_leaves_the_old_record_and_no_draft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(trial("a", score=0.1), str(tmp_path))

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write(trial("a", score=0.2), str(tmp_path))
    (found,) = read(str(tmp_path)).trials
    assert found.score == 0.1
    assert [path.name for path in (tmp_path / FOLDER).iterdir()] == ["a.json"]


def test_a_record_that_json_has_no_word_for_is_not_written() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write(trial("a", score=float("nan")), "unused")


# Object stores.


class Cached(MemoryFileSystem):
    """Keeps listings until it is told to forget them, as the file systems of object stores do."""

    protocol = "cached"
    listed: dict[str, Any] = {}  # noqa: RUF012  # of all instances, like the store itself

    def find(self, path: str, *arguments: Any, **options: Any) -> Any:
        if path not in self.listed:
            self.listed[path] = super().find(path, *arguments, **options)
        return self.listed[path]

    def invalidate_cache(self, path: str | None = None) -> None:
        self.listed.clear()

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.replace("cached://", "memory://"))


@pytest.fixture
def bucket() -> Iterator[str]:
    """A folder of its own in an object store."""
    name = uuid.uuid4().hex
    yield f"memory://{name}"
    store = fsspec.filesystem("memory")
    if store.exists(f"/{name}"):
        store.rm(f"/{name}", recursive=True)


def test_an_object_store_gives_back_what_was_written(bucket: str) -> None:
    write(WHOLE, f"{bucket}/version_0")
    write(trial("b", started="2031"), f"{bucket}/deeper/version_1/")
    found = read(bucket)
    assert found.unreadable == {}
    assert found.trials == (
        replace(WHOLE, folder=f"{bucket}/version_0"),
        trial("b", started="2031", folder=f"{bucket}/deeper/version_1"),
    )


def test_an_object_store_without_the_folder_is_an_error(bucket: str) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder"):
        read(bucket)


def test_a_listing_that_the_store_has_kept_is_not_believed(bucket: str) -> None:
    fsspec.register_implementation("cached", Cached, clobber=True)
    address = bucket.replace("memory://", "cached://")
    write(trial("a"), f"{bucket}/version_0")
    assert len(read(address).trials) == 1
    write(trial("b"), f"{bucket}/version_1")  # by another process
    assert len(read(address).trials) == 2


def test_reading_ends_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        write(trial(str(number)), str(tmp_path / f"version_{number}"))
    now = [0.0]
    content = records._content

    def slow(*arguments: Any) -> Any:
        now[0] += 1.0
        return content(*arguments)

    monkeypatch.setattr(records, "_content", slow)
    monkeypatch.setattr(records.time, "monotonic", lambda: now[0])
    assert read(str(tmp_path), within=100.0).is_whole
    now[0] = 0.0
    part = read(str(tmp_path), within=2.5)
    assert not part.is_whole
    assert len(part.trials) == 2
