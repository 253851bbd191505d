# SPDX-License-Identifier: Apache-2.0
"""What a ledger makes of folders that it finds, and of inputs that change."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from DeepFLASHRegistrationLib.jobs.job import Digests, Job, key_of
from DeepFLASHRegistrationLib.jobs.ledger import RECORD, Claim, Done, Failed, Ledger, Place, Run
from DeepFLASHRegistrationLib.support.errors import InputError


def job(name: str = "a", key: str = "one") -> Job:
    return Job(name, lambda: key_of(key), "none")


def completed(ledger: Ledger, what: Job, text: str = "text") -> Done:
    """The job done, by hand."""
    claim = ledger.claim(what, 3)
    assert isinstance(claim, Claim)
    claim.result.mkdir()
    (claim.result / "text.txt").write_text(text)
    return claim.complete({"text": text}, 1.5)


def test_a_result_of_other_inputs_is_refused_and_replaced_by_force(tmp_path: Path) -> None:
    completed(Ledger(tmp_path / "out"), job())
    assert isinstance(Ledger(tmp_path / "out").claim(job(), 3), Done)
    with pytest.raises(InputError, match=r"a: holds the result of other inputs or parameters.*--force"):
        Ledger(tmp_path / "out").claim(job(key="two"), 3)
    assert (tmp_path / "out" / "a" / "text.txt").read_text() == "text"
    ledger = Ledger(tmp_path / "out", force=True)
    assert isinstance(ledger.claim(job(), 3), Done)  # the same job is not done again
    assert completed(ledger, job(key="two"), "other").value == {"text": "other"}
    assert sorted(os.listdir(tmp_path / "out" / "a")) == [RECORD, "text.txt"]
    assert (tmp_path / "out" / "a" / "text.txt").read_text() == "other"


def test_a_result_that_something_else_has_replaced_is_the_job_s_no_more(tmp_path: Path) -> None:
    completed(Ledger(tmp_path / "out"), job())
    result = tmp_path / "out" / "a"
    (result / "notes.txt").write_text("mine")
    (result / "text.txt").touch()
    assert Ledger(tmp_path / "out").place(job()) is Place.DONE
    (result / "text.txt").write_text("another text")
    assert Ledger(tmp_path / "out").place(job()) is Place.OTHER
    (result / "text.txt").unlink()  # to save room
    assert Ledger(tmp_path / "out").place(job()) is Place.DONE


def test_a_result_that_was_just_being_replaced_when_all_ended_is_there_again(tmp_path: Path) -> None:
    completed(Ledger(tmp_path / "out"), job())
    claim = Ledger(tmp_path / "out", force=True).claim(job(key="two"), 3)
    claim.result.mkdir()
    (state,) = (tmp_path / "out" / ".jobs").glob("*.json")
    os.replace(tmp_path / "out" / "a", state.with_suffix(".old"))
    claim._lock.release()  # as the system does when a process ends
    ledger = Ledger(tmp_path / "out")
    assert ledger.place(job()) is Place.DONE
    assert (tmp_path / "out" / "a" / "text.txt").read_text() == "text"
    assert os.listdir(tmp_path / "out" / ".jobs") == []


@pytest.mark.parametrize("force", [False, True])
def test_something_else_in_the_place_of_a_result_is_never_touched(tmp_path: Path, force: bool) -> None:
    ledger = Ledger(tmp_path / "out", force)
    (tmp_path / "out" / "a").mkdir()
    assert ledger.place(job()) is Place.FREE
    (tmp_path / "out" / "a" / "thesis.txt").write_text("mine")
    (tmp_path / "out" / "b").write_text("mine")
    for name in "ab":
        assert ledger.place(job(name)) is Place.FOREIGN
        with pytest.raises(InputError, match=f"{name}: exists and holds something else"):
            ledger.claim(job(name), 3)
    assert os.listdir(tmp_path / "out" / "a") == ["thesis.txt"]


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_text("x")
    with pytest.raises(InputError, match=r"holds something else\. Choose a new folder"):
        Ledger(tmp_path)
    with pytest.raises(InputError, match="is a file"):
        Ledger(tmp_path / "photo.jpg")
    with pytest.raises(InputError, match="cannot be written"):
        Ledger(tmp_path / "photo.jpg" / "out")
    assert os.listdir(tmp_path) == ["photo.jpg"]


def test_a_folder_that_another_run_begins_at_the_same_moment_is_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, listed = tmp_path / "out", Path.iterdir
    out.mkdir()

    def after_the_other_has_begun(folder: Path) -> Iterator[Path]:
        monkeypatch.undo()
        completed(Ledger(out), job())
        return listed(folder)

    monkeypatch.setattr(Path, "iterdir", after_the_other_has_begun)
    assert Ledger(out).place(job()) is Place.DONE


def test_who_works_on_a_job_has_it_alone(tmp_path: Path) -> None:
    claim = Ledger(tmp_path / "out").claim(job(), 3)
    assert Ledger(tmp_path / "out").claim(job(), 3) is None
    assert isinstance(Ledger(tmp_path / "out").claim(job("b"), 3), Claim)
    claim.interrupted()
    again = Ledger(tmp_path / "out").claim(job(), 3)
    assert isinstance(again, Claim)
    assert again.tries == 1


def test_a_place_that_was_taken_meanwhile_is_left_alone(tmp_path: Path) -> None:
    claim = Ledger(tmp_path / "out").claim(job(), 3)
    claim.result.mkdir()
    (tmp_path / "out" / "a").mkdir()
    (tmp_path / "out" / "a" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="exists and holds something else"):
        claim.complete(None, 1.0)
    claim.give_up("taken")
    assert os.listdir(tmp_path / "out" / "a") == ["thesis.txt"]
    assert Ledger(tmp_path / "out").failed("a").message == "taken"


def test_what_one_process_of_a_run_has_given_up_the_others_leave(tmp_path: Path) -> None:
    """Those of an array may begin hours apart; a run that begins later tries all anew."""
    run = Run("array 7", time.time() - 3600)
    Ledger(tmp_path / "out", run=run).claim(job(), 3).give_up("broken")
    later = Ledger(tmp_path / "out", run=Run("array 7"))
    assert later.claim(job(), 3) == Failed("broken", 1)
    at_once = Ledger(tmp_path / "out", run=Run("another", time.time() - 60))
    assert at_once.claim(job(), 3) == Failed("broken", 1)
    assert isinstance(Ledger(tmp_path / "out", run=Run("another", time.time() + 60)).claim(job(), 3), Claim)


def test_what_another_process_of_the_same_jobs_has_done_is_believed_unread(tmp_path: Path) -> None:
    def unread() -> str:
        raise AssertionError("its inputs were read")

    completed(Ledger(tmp_path / "out"), job("site/a"))
    known = Job("site/a", unread, "none")
    ledger = Ledger(tmp_path / "out", run=Run(alike=True))
    assert ledger.claim(known, 3).value == {"text": "text"}
    assert isinstance(ledger.claim(job("site/b"), 3), Claim)
    (tmp_path / "out" / "site" / "c").mkdir()
    assert isinstance(ledger.claim(job("site/c"), 3), Claim)  # which no job has filled
    for other in (Ledger(tmp_path / "out"), Ledger(tmp_path / "out", True, Run(alike=True))):
        with pytest.raises(AssertionError, match="its inputs were read"):
            other.claim(known, 3)


@pytest.mark.skipif(os.name != "posix", reason="POSIX locks")
def test_who_lost_its_lock_to_another_computer_finds_the_job_done(tmp_path: Path) -> None:
    """A file system drops the locks of a computer that it hears no more of, and which may be alive nevertheless."""
    import fcntl

    claim = Ledger(tmp_path / "out").claim(job(), 3)
    claim.result.mkdir()
    (claim.result / "text.txt").write_text("late")
    fcntl.flock(claim._lock._descriptor, fcntl.LOCK_UN)
    other = completed(Ledger(tmp_path / "out"), job(), "first")
    assert not claim.result.exists()
    assert claim.complete(None, 1.0) == other
    assert (tmp_path / "out" / "a" / "text.txt").read_text() == "first"


def test_a_damaged_state_is_no_state(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "out")
    ledger.claim(job(), 3).give_up("broken")
    (state,) = (tmp_path / "out" / ".jobs").glob("*.json")
    for text in ("", "{", "[]", '{"format": 1, "key": 3}', '{"format": 2}', "[" * 100_000):
        state.write_text(text)
        assert ledger.failed("a") is None
    completed(ledger, job())
    (tmp_path / "out" / "a" / RECORD).write_text('{"format": 1, "key"')
    assert ledger.place(job()) is Place.FOREIGN


def test_a_digest_is_that_of_the_content(tmp_path: Path) -> None:
    file, memory = tmp_path / "a.nii", tmp_path / "memory.txt"
    file.write_bytes(b"0123")
    first = Digests(memory).of(file)
    # hashlib's own, by another way: sha256sum of "0123".
    assert first == "1be2e452b46d7a0d9656bbb1f768e8248eba1b75baed65f5d99eafa948899a6a"
    date = os.stat(file).st_mtime_ns
    file.write_bytes(b"3210")
    os.utime(file, ns=(date, date))
    assert Digests(memory).of(file) != first
    assert not memory.exists()  # so new a file may change again with the same date


def test_what_was_read_once_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, memory = tmp_path / "a.nii", tmp_path / "memory.txt"
    file.write_bytes(b"0123")
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now + 10_000_000_000)
    first = Digests(memory).of(file)
    assert memory.read_text().count(first) == 1
    # Were the file read, it would be this.
    memory.write_text(memory.read_text().replace(first, "f" * 64) + "half a li")
    assert Digests(memory).of(file) == "f" * 64
    file.write_bytes(b"01234")
    assert Digests(memory).of(file) not in (first, "f" * 64)


def test_what_another_process_reads_meanwhile_is_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, now = tmp_path / "memory.txt", time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now + 10_000_000_000)
    one, two = Digests(memory), Digests(memory)
    for name in "ab":
        file = tmp_path / f"{name}.nii"
        file.write_bytes(name.encode())
        found = one.of(file)
        memory.write_text(memory.read_text().replace(found, "f" * 64) + "half")
        assert two.of(file) == "f" * 64
        memory.write_text(memory.read_text().removesuffix("half"))


def test_files_in_two_parts_and_slices_count_as_wholes(tmp_path: Path) -> None:
    (tmp_path / "a.mhd").write_text("ElementDataFile = a.raw")
    (tmp_path / "a.raw").write_bytes(b"1")
    (tmp_path / "ab.raw").write_bytes(b"1")
    header = Digests().of(tmp_path / "a.mhd")
    (tmp_path / "ab.raw").write_bytes(b"2")
    assert Digests().of(tmp_path / "a.mhd") == header
    (tmp_path / "a.raw").write_bytes(b"2")
    assert Digests().of(tmp_path / "a.mhd") != header
    folder = tmp_path / "dicom"
    folder.mkdir()
    for name in ("1", "2"):
        (folder / name).write_bytes(bytes(128) + b"DICM" + name.encode())
    one, all_ = Digests().of(folder / "1"), Digests().of(folder)
    (folder / "2").write_bytes(bytes(128) + b"DICM3")
    assert Digests().of(folder / "1") != one
    assert Digests().of(folder) != all_
    with pytest.raises(InputError, match="none: cannot be read"):
        Digests().of(tmp_path / "none")


def test_a_key_does_not_depend_on_the_order_of_names() -> None:
    assert key_of({"a": 1, "b": [2, "ü"]}) == key_of({"b": [2, "ü"], "a": 1})
    assert len({key_of(value) for value in ({"a": 1}, {"a": "1"}, {"a": [1]}, {"b": 1}, {"a": 1.5})}) == 5
