"""Nothing of anyone's is lost: what an output may replace, what is cleared beside it, and which files a folder has as its own."""

import json
import os
import socket
from dataclasses import replace

import numpy as np
import pytest

from export.folders.folder import new_folder, tensor, write_tensors
from export.folders.from_peft import import_peft
from export.folders.merge import merge
from export.folders.peft import export_peft
from unilora_spec import Adapter, Base, LayerMap, Projection, Segment, UniLoraError, replacing, save_adapter
from unilora_spec.base_model import compare_with_base, read_file
from unilora_spec.places import check_output, check_output_folder, check_working_folder, leftovers, own_file

pytestmark = pytest.mark.skipif(os.name == "nt", reason="links, pipes and devices are those of POSIX")

MAP = LayerMap([Segment("module.w.weight", 4, 4, 2)], alpha=2)
ADAPTER = Adapter(Projection(D=16, d=4, seed=1), MAP, np.ones(4, np.float32))


@pytest.fixture
def mine(tmp_path):
    """A file of mine, and a folder with it, that are to stay whatever happens beside them."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    yield tmp_path / "mine"
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "mine"


def made(kind, path, mine):
    """Something at ``path`` that no output may take the place of."""
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        here = os.getcwd()
        os.chdir(path.parent)  # a socket's path is short
        with socket.socket(socket.AF_UNIX) as held:
            held.bind(path.name)
        os.chdir(here)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(
            {"link": mine / "thesis.txt", "link to a folder": mine, "dangling": "nowhere", "loop": path.name}[kind]
        )
    return path


KINDS = {
    "pipe": "is a pipe", "socket": "is a socket", "folder": "is a folder", "link": "is a link", "link to a folder": "is a link",
    "dangling": "is a link", "loop": "is a link",
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_takes_the_place_of_a_regular_file_alone(tmp_path, mine, kind):
    path = made(kind, tmp_path / "v.safetensors", mine)
    before = path.lstat()
    with pytest.raises(UniLoraError, match=KINDS[kind]):
        save_adapter(ADAPTER, path)
    assert path.lstat() == before and len([*tmp_path.iterdir()]) == 2


@pytest.mark.parametrize("device", ["/dev/null", "/dev/full"])
def test_a_device_is_no_place(device):
    """Asked, and never tried on the machine's own: a fault would replace it for all that run there."""
    with pytest.raises(UniLoraError, match="is a device"):
        check_output(device)


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_takes_the_place_of_nothing(tmp_path, mine, kind):
    path = made(kind, tmp_path / "out", mine)
    if kind == "folder":
        (path / "inner").touch()
    with pytest.raises(UniLoraError, match="is there already"), new_folder(path):
        raise AssertionError
    check_output_folder(tmp_path / "free")
    assert path.lstat() and len([*tmp_path.iterdir()]) == 2


def test_writers_ask(tmp_path, mine):
    """Of what NumPy alone writes; the others are in test_nobodys_code.py."""
    base, adapter = base_of(tmp_path / "base"), tmp_path / "a.safetensors"
    save_adapter(ADAPTER, adapter)
    export_peft(adapter, tmp_path / "peft", base)
    link, folder = made("link", tmp_path / "link", mine), made("link to a folder", tmp_path / "folder", mine)
    with pytest.raises(UniLoraError, match="link is a link"):
        import_peft(tmp_path / "peft", link)
    with pytest.raises(UniLoraError, match="folder is there already, as a link"):
        merge(adapter, folder, base)
    with (
        pytest.raises(UniLoraError, match="link is a link"),
        replacing(link),
    ):  # all else, as the conformance tests' --json
        raise AssertionError


def test_the_folder_that_is_imported_is_not_written_to(tmp_path):
    base, adapter = base_of(tmp_path / "base"), tmp_path / "a.safetensors"
    save_adapter(ADAPTER, adapter)
    export_peft(adapter, tmp_path / "peft", base)
    before = (tmp_path / "peft" / "adapter_model.safetensors").read_bytes()
    with pytest.raises(UniLoraError, match="which is read; give another output"):
        import_peft(tmp_path / "peft", tmp_path / "peft" / "adapter_model.safetensors")
    assert (tmp_path / "peft" / "adapter_model.safetensors").read_bytes() == before


# What is cleared


def test_leftovers_of_others_stay(tmp_path, mine):
    """Names that are alike, and our own name on a link, a pipe or the other kind of thing."""
    path = tmp_path / "v.safetensors"
    for name in (
        ".v.safetensors.abcd1234.partial",
        ".v.safetensors.personal.partial",
        ".v.safetensors.x.unilora.partial",
    ):
        (tmp_path / name).write_text("mine")
    (tmp_path / ".v.safetensors.theirown.partial").mkdir()
    (tmp_path / ".v.safetensors.theirown.partial" / "a").write_text("mine")
    made("link", tmp_path / ".v.safetensors.link0000.unilora.partial", mine)
    made("link to a folder", tmp_path / ".v.safetensors.link0001.unilora.partial", mine)
    made("pipe", tmp_path / ".v.safetensors.pipe0000.unilora.partial", mine)
    inner = tmp_path / ".v.safetensors.folder00.unilora.partial"
    inner.mkdir()
    (inner / "a").write_text("mine")
    (tmp_path / ".v.safetensors.afile000.unilora.partial").write_text("mine")
    before = {*tmp_path.rglob("*")}
    save_adapter(ADAPTER, path)
    assert {*tmp_path.rglob("*")} - {path} == before  # a folder of our form has our lock in it, or nothing
    assert leftovers(path) == [inner]


def test_a_folder_that_was_left_goes_and_what_it_links_to_stays(tmp_path, mine):
    left = tmp_path / ".out.0a1b2c3d.unilora.partial"
    left.mkdir()
    (left / "lock").touch()
    made("link to a folder", left / "link", mine)
    made("link", left / "file", mine)
    (tmp_path / ".out.0a1b2c3e.unilora.partial").write_text("a file that a folder's writer does not make")
    with new_folder(tmp_path / "out") as target:
        (target / "a").touch()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.0a1b2c3e.unilora.partial", "mine", "out"]


def test_a_folder_of_checkpoints_has_no_links(tmp_path, mine):
    check_working_folder(tmp_path / "none")
    (tmp_path / "work" / "checkpoint-1").mkdir(parents=True)
    (tmp_path / "work" / "checkpoint-1" / "state").touch()
    check_working_folder(tmp_path / "work")
    for kind in ("link", "link to a folder", "pipe", "dangling"):
        path = made(kind, tmp_path / "work" / "checkpoint-1" / "x", mine)
        with pytest.raises(UniLoraError, match=KINDS[kind]):
            check_working_folder(tmp_path / "work")
        path.unlink()
    with pytest.raises(UniLoraError, match="is a link"):
        check_working_folder(made("link to a folder", tmp_path / "link", mine))
    with pytest.raises(UniLoraError, match="is a file, where a folder is needed"):
        check_working_folder(mine / "thesis.txt")


# What is a folder's own


def test_files_of_its_own(tmp_path, mine):
    folder = tmp_path / "x" / "snapshots" / "1" / "onnx"
    blobs = tmp_path / "x" / "blobs"
    folder.mkdir(parents=True), blobs.mkdir()
    (
        (folder / "a").touch(),
        (blobs / "b").touch(),
        (tmp_path / "x" / "c").touch(),
        (tmp_path / "x" / "snapshots" / "d").touch(),
    )
    (folder / "blob").symlink_to("../../../blobs/b")
    (folder / "again").symlink_to("blob")
    (folder / "out").symlink_to("../../../c")
    (
        made("pipe", folder / "pipe", mine),
        made("loop", folder / "loop", mine),
        made("dangling", folder / "dangling", mine),
    )
    made("link", folder / "mine", mine), made("link to a folder", folder / "inner", mine)
    assert own_file(folder, "a") == (folder / "a").resolve()
    assert own_file(folder, "blob") == own_file(folder, "again") == (blobs / "b").resolve()
    for name in (
        "out", "pipe", "loop", "dangling", "mine", "inner", "inner/thesis.txt", "", ".", "../../d", "../../../c", "/dev/null", "a\0",
        str(mine / "thesis.txt"),
    ):  # fmt: skip
        assert own_file(folder, name) is None, name


def test_blobs_that_are_a_link_are_not_the_snapshot_s(tmp_path, mine):
    folder = tmp_path / "snapshots" / "1"
    folder.mkdir(parents=True)
    (tmp_path / "blobs").symlink_to(mine)
    (folder / "README.md").symlink_to("../../blobs/thesis.txt")
    assert (folder / "README.md").read_text() == "mine" and own_file(folder, "README.md") is None


# What merge copies


def base_of(folder):
    folder.mkdir(parents=True)
    weight = np.arange(16, dtype="<f4").reshape(4, 4)
    write_tensors(folder / "model.safetensors", {"module.w.weight": tensor(weight)}, {"format": "pt"})
    (folder / "config.json").write_text("{}")
    return folder


def test_merge_copies_files_of_the_base_alone(tmp_path, mine):
    base = base_of(tmp_path / "base")
    (base / "LICENSE").write_text("free")
    (base / "NOTICE").symlink_to("LICENSE")
    strange = {
        "README.md": "link", "1_Pooling": "link to a folder", "gone.txt": "dangling", "round.txt": "loop", "vocab.txt": "pipe",
        "socket": "socket",
    }  # fmt: skip
    for name, kind in strange.items():
        made(kind, base / name, mine)
    (base / "null").symlink_to("/dev/null")
    (base / "parent").symlink_to("..")
    save_adapter(ADAPTER, tmp_path / "a.safetensors")
    report = merge(tmp_path / "a.safetensors", tmp_path / "merged", base)
    merged = {str(path.relative_to(tmp_path / "merged")) for path in (tmp_path / "merged").rglob("*")}
    assert merged == {"model.safetensors", "config.json", "LICENSE", "NOTICE"}
    assert (tmp_path / "merged" / "NOTICE").read_text() == "free" and not (tmp_path / "merged" / "NOTICE").is_symlink()
    left = [warning.partition(" is left out")[0] for warning in report["warnings"]]
    assert sorted(left) == sorted([*strange, "null", "parent"])


def test_merge_takes_a_base_in_hugging_face_s_cache(tmp_path):
    blobs = base_of(tmp_path / "models--x" / "blobs")
    folder = tmp_path / "models--x" / "snapshots" / "0123"
    (folder / "1_Pooling").mkdir(parents=True)
    (blobs / "config.json").rename(blobs / "deadbeef")
    (folder / "config.json").symlink_to("../../blobs/deadbeef")
    (folder / "model.safetensors").symlink_to("../../blobs/model.safetensors")
    (folder / "1_Pooling" / "config.json").symlink_to("../../../blobs/deadbeef")
    save_adapter(ADAPTER, tmp_path / "a.safetensors")
    report = merge(tmp_path / "a.safetensors", tmp_path / "merged", folder)
    assert report["files"] == 3 and report["warnings"] == []
    assert not any(path.is_symlink() for path in (tmp_path / "merged").rglob("*"))


def test_weights_are_read_through_a_link_and_it_is_said(tmp_path, mine):
    base, elsewhere = base_of(tmp_path / "base"), tmp_path / "elsewhere.safetensors"
    (base / "model.safetensors").rename(elsewhere)
    (base / "model.safetensors").symlink_to(elsewhere)
    save_adapter(ADAPTER, tmp_path / "a.safetensors")
    report = merge(tmp_path / "a.safetensors", tmp_path / "merged", base)
    assert report["warnings"] == [f"the weights model.safetensors are read through a link, from {elsewhere.resolve()}"]
    assert read_file(tmp_path / "merged" / "model.safetensors")[0].keys() == {"module.w.weight"}
    assert elsewhere.is_file() and not (tmp_path / "merged" / "model.safetensors").is_symlink()
    (base / "model.safetensors").unlink()
    (base / "model.safetensors").symlink_to(mine / "thesis.txt")
    with pytest.raises(UniLoraError, match="this is no safetensors file"):
        merge(tmp_path / "a.safetensors", tmp_path / "other", base)


@pytest.mark.parametrize("kind", ["pipe", "socket", "folder", "dangling", "loop", "link"])
def test_weights_that_are_none(tmp_path, mine, kind):
    """A pipe is not waited for."""
    base = base_of(tmp_path / "base")
    (base / "model.safetensors").unlink()
    made(kind, base / "model.safetensors", mine)
    with pytest.raises((UniLoraError, OSError)):
        compare_with_base(ADAPTER, base)


def test_an_index_of_elsewhere_is_refused(tmp_path):
    base = base_of(tmp_path / "base")
    (base / "model.safetensors").rename(base / "model-1.safetensors")
    (tmp_path / "index.json").write_text(
        json.dumps({"mine": "mine", "weight_map": {"module.w.weight": "model-1.safetensors"}})
    )
    (base / "model.safetensors.index.json").symlink_to(tmp_path / "index.json")
    save_adapter(ADAPTER, tmp_path / "a.safetensors")
    with pytest.raises(UniLoraError, match="is no file of the base's own folder"):
        merge(tmp_path / "a.safetensors", tmp_path / "merged", base)
    assert not (tmp_path / "merged").exists()


# A base that only a record names


def named(tmp_path, name):
    save_adapter(replace(ADAPTER, base=Base(name, "0" * 32, "0" * 32)), tmp_path / "named.safetensors")
    return tmp_path / "named.safetensors"


@pytest.mark.parametrize(
    "name", ["org/model", "~", "~/base", "//host/share", "\\\\host\\share", "file:///tmp", "x" * 5000, "a\0b", ""]
)
def test_a_record_names_a_folder_here_or_nothing(tmp_path, monkeypatch, name):
    monkeypatch.setenv("HOME", str(base_of(tmp_path / "home")))
    seen = []
    monkeypatch.setattr("pathlib.Path.is_dir", lambda path, **_: seen.append(str(path)) or os.path.isdir(path))
    with pytest.raises(UniLoraError, match="is no folder here, and nothing is fetched"):
        merge(named(tmp_path, name), tmp_path / "merged")
    if name[:2] in ("//", "\\\\"):
        assert not [path for path in seen if "host" in path]  # to ask for it would tell that machine


@pytest.mark.parametrize("relative", [False, True])
def test_a_base_that_a_record_names_is_said_first(tmp_path, monkeypatch, capsys, relative):
    base = base_of(tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    # The record is of other weights, so that the work ends after the sentence.
    with pytest.raises(UniLoraError):
        merge(named(tmp_path, "base" if relative else str(base)), tmp_path / "merged")
    assert capsys.readouterr().err == f"the adapter names its base: {base}\n"
    with pytest.raises(UniLoraError):
        merge(named(tmp_path, "elsewhere"), tmp_path / "merged", base)
    assert capsys.readouterr().err == ""  # typed, and not the record's


def test_a_regular_file_is_a_place(tmp_path):
    check_output(tmp_path / "free")
    (tmp_path / "taken").write_bytes(b"old")
    check_output(tmp_path / "taken")
    save_adapter(ADAPTER, tmp_path / "taken")
    assert (tmp_path / "taken").read_bytes() != b"old"
