"""Outputs come to their places whole, whoever else writes there, and only what the dead have left is cleared (SPEC 8.11)."""

import hashlib
import json
import os
import signal
import threading
import time

import numpy as np
import pytest

from unilora_spec import Adapter, FileError, LayerMap, Projection, Segment, placing, replacing, save_adapter
from unilora_spec.base_model import read_file, read_pieces, read_raw
from unilora_spec.placing import LOCK
from unilora_spec.reading import open_bytes
from unilora_spec.serialization import decode, encode

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="the processes are copies of this one")


def adapter(d):
    layer_map = LayerMap([Segment("w", 10, 10, 10)])
    return Adapter(Projection(D=layer_map.D, d=d, seed=0), layer_map, np.full(d, 1 / d, np.float32))


ONE, OTHER = adapter(50), adapter(150)
WHOLE = {encode(ONE), encode(OTHER)}


def forked(work) -> int:
    """The process identifier of a copy of this process that does ``work`` alone."""
    child = os.fork()
    if not child:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return child


def killed(work) -> None:
    """``work`` in a copy of this process, which kills itself in it."""
    assert os.waitstatus_to_exitcode(os.waitpid(forked(work), 0)[1]) == -signal.SIGKILL


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# One place, many savers


@forks
def test_every_save_of_two_processes_succeeds_and_every_read_is_whole(tmp_path):
    path = tmp_path / "vec.safetensors"
    save_adapter(ONE, path)
    running = {forked(lambda one=one: [save_adapter(one, path) for _ in range(60)]) for one in (ONE, OTHER)}
    while running:
        assert path.read_bytes() in WHOLE
        for child in list(running):
            if (done := os.waitpid(child, os.WNOHANG))[0]:
                assert done[1] == 0
                running.remove(child)
    assert names(tmp_path) == ["vec.safetensors"]


def test_every_save_of_many_threads_succeeds(tmp_path):
    path, failed = tmp_path / "vec.safetensors", []

    def saving(one):
        try:
            for _ in range(30):
                save_adapter(one, path)
        except Exception as error:  # noqa: BLE001  whatever it is
            failed.append(error)

    threads = [threading.Thread(target=saving, args=[one]) for one in (ONE, OTHER) * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed and path.read_bytes() in WHOLE and names(tmp_path) == ["vec.safetensors"]


def test_what_a_living_saver_writes_stays(tmp_path):
    path = tmp_path / "vec.safetensors"
    with replacing(path) as temporary:
        temporary.write_bytes(b"the last one")
        save_adapter(ONE, path)
        assert path.read_bytes() == encode(ONE) and temporary.exists()
    assert path.read_bytes() == b"the last one" and names(tmp_path) == ["vec.safetensors"]


def test_sets_of_several_writers_are_placed_one_after_the_other(tmp_path, monkeypatch):
    """Renames are slow here, so that two sets would mix at once without their turns."""
    rename = os.replace
    monkeypatch.setattr(os, "replace", lambda *places: (time.sleep(0.002), rename(*places)))

    def writing(mark):
        for _ in range(10):
            with placing.placing(tmp_path / "set.onnx") as folder:
                for end in ("onnx", "a", "b"):
                    (folder / f"set.{end}").write_text(mark)
            with placing._turn(tmp_path / "set.onnx"):
                seen.append({(tmp_path / f"set.{end}").read_text() for end in ("onnx", "a", "b")})

    seen = []
    threads = [threading.Thread(target=writing, args=[mark]) for mark in "xyz"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 30 and all(len(marks) == 1 for marks in seen)
    assert names(tmp_path) == ["set.a", "set.b", "set.onnx"]


# What the dead leave


@forks
def test_what_a_killed_saver_left_is_cleared_and_nothing_else(tmp_path):
    path, mine = tmp_path / "vec.safetensors", tmp_path / "mine"
    mine.mkdir()
    (mine / "letter").write_text("dear")
    (tmp_path / ".vec.safetensors.00000000.unilora.partial").symlink_to(mine)

    def dying():
        with replacing(path) as temporary:
            temporary.write_bytes(b"half")
            die()

    killed(dying)
    assert len(names(tmp_path)) == 3 and not path.exists()
    save_adapter(ONE, path)
    assert names(tmp_path) == [".vec.safetensors.00000000.unilora.partial", "mine", "vec.safetensors"]
    assert names(mine) == ["letter"]


@forks
@pytest.mark.parametrize("removals", range(5))
def test_a_saver_that_is_killed_while_it_clears_is_cleared_by_the_next(tmp_path, monkeypatch, removals):
    """Of what it had begun, a file in a folder, the folder, another file, the lock, its own folder, ``removals`` are gone."""
    own = {name: getattr(os, name) for name in ("unlink", "rmdir")}

    def dying(name):
        def remove(*place, **options):
            nonlocal removals
            if removals == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            removals -= 1
            own[name](*place, **options)

        return remove

    def work():
        with placing.placing(tmp_path / "out") as folder:
            (folder / "out").mkdir()
            (folder / "out/a").write_bytes(b"old")
            (folder / "b").write_bytes(b"old")
            for name in own:
                monkeypatch.setattr(os, name, dying(name))
            raise KeyboardInterrupt

    killed(work)
    assert len(os.listdir(tmp_path)) == 1
    with placing.placing(tmp_path / "out") as folder:
        (folder / "out").write_bytes(b"new")
    assert os.listdir(tmp_path) == ["out"] and (tmp_path / "out").read_bytes() == b"new"


def test_where_there_are_no_locks_nothing_is_cleared(tmp_path, monkeypatch):
    monkeypatch.setattr(placing, "fcntl", None)
    path = tmp_path / "vec.safetensors"
    (tmp_path / ".vec.safetensors.00000000.unilora.partial").mkdir()
    save_adapter(ONE, path)
    assert path.read_bytes() == encode(ONE)
    assert names(tmp_path) == [".vec.safetensors.00000000.unilora.partial", "vec.safetensors"]


def data(folder, mark):
    """Where the data of a graph lie that hold the text ``mark``: their digest is in their name."""
    return folder / f"out.onnx.{hashlib.sha256(mark.encode()).hexdigest()[:12]}.data"


@forks
@pytest.mark.parametrize("renames", [0, 1, 2])
def test_a_set_that_was_killed_between_its_renames_leaves_nothing_over(tmp_path, monkeypatch, renames):
    """The old graph has its old data until it is replaced, and the data of neither stays for good."""
    path = tmp_path / "out.onnx"

    def data_of_the_old():
        return {data(tmp_path, path.read_text())} if path.exists() else set()

    def place(mark, after=None):
        rename, count = os.replace, 0

        def renaming(*places):
            nonlocal count
            if count == after:
                die()
            rename(*places)
            count += 1

        monkeypatch.setattr(os, "replace", renaming)
        if after == 2:
            monkeypatch.setattr(placing, "_flush", lambda p: die() if p == tmp_path else None)
        with placing.placing(path, data_of_the_old) as folder:
            (folder / "out.onnx").write_text(mark)
            data(folder, mark).write_text(mark)
        monkeypatch.undo()

    place("old")
    killed(lambda: place("new", renames))
    graph = path.read_text()
    assert graph == ("new" if renames == 2 else "old") and data(tmp_path, graph).read_text() == graph
    place("last")
    assert names(tmp_path) == ["out.onnx", data(tmp_path, "last").name]


def test_a_note_names_nothing_but_the_outputs_own(tmp_path):
    """A stranger's folder may hold anything that looks like what a kill left."""
    inside = tmp_path / "inside"
    inside.mkdir()
    leftover = inside / ".out.onnx.00000000.unilora.partial"
    leftover.mkdir()
    files = [tmp_path / "letter", inside / "letter", inside / "out.onnx", inside / "out.txt"]
    for file in files:
        file.write_text("mine")
    noted = ["../letter", "letter", "out.onnx", "out.txt", str(tmp_path / "letter"), "out.onnx./../letter", 7]
    for note in ([noted, noted], [noted], 5, {"a": 1}, [[None], [None]]):
        (leftover / LOCK).write_text(json.dumps(note))
        with placing.placing(inside / "out.onnx") as folder:
            (folder / "other").write_text("new")
        assert all(file.read_text() == "mine" for file in files) and not leftover.exists()
        leftover.mkdir()


# Files that are cut while they are read


def test_a_file_that_is_cut_while_it_is_read_ends_in_a_sentence(tmp_path):
    path = tmp_path / "vec.safetensors"
    save_adapter(OTHER, path)
    with open_bytes(path) as data:
        os.truncate(path, len(data) - 10)
        with pytest.raises(FileError, match="the file was cut while it was read"):
            decode(data)


def test_a_base_that_is_cut_while_it_is_read_ends_in_a_sentence(tmp_path):
    path = tmp_path / "model.safetensors"
    save_adapter(OTHER, path)  # a .safetensors file as good as any
    (stored,) = read_file(path)[0].values()
    assert b"".join(read_pieces(stored, 7)) == OTHER.theta.tobytes() == read_raw(stored).tobytes()
    os.truncate(path, path.stat().st_size - 10)
    for reading in (lambda: read_raw(stored), lambda: [*read_pieces(stored, 7)]):
        with pytest.raises(FileError, match=f"{path}: the file was cut while it was read: .* write it again"):
            reading()
