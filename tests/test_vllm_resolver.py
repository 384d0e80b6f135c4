"""Adapters for vLLM by their files' names: the LoRA folder is made once, of the right base alone; vLLM's two classes are stand-ins here.
`make vllm` runs the resolver in vLLM's server."""

import asyncio
import importlib
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from export.folders.folder import tensor, write_tensors
from export.folders.lora import export_lora
from export.serving import prepare
from export.serving.prepare import adapter_file, lora_folder
from unilora_spec import (
    Adapter,
    Base,
    BaseMismatch,
    LayerMap,
    Projection,
    Segment,
    UniLoraError,
    WorkFailed,
    contents_fingerprint,
    save_adapter,
    structure_fingerprint,
)

ROOT = Path(__file__).parents[1]
Q, V, CONV, WORDS, EXPERTS = "l.0.q.weight", "l.0.v.weight", "l.0.conv.weight", "l.embed_tokens.weight", "l.0.experts"
SHAPES = {Q: (12, 8), V: (6, 8), CONV: (6, 4, 2), WORDS: (20, 8), EXPERTS: (2, 6, 8)}


def values(seed):
    random = np.random.default_rng(seed)
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}


def write_base(folder, seed=0):
    folder.mkdir(exist_ok=True)
    write_tensors(folder / "model.safetensors", {name: tensor(value) for name, value in values(seed).items()})


def write_adapter(path, segments=None, saved=(), theta=0):
    """An adapter of the base of seed 0 that has a record of it."""
    layer_map = LayerMap(segments or [Segment(Q, 12, 8, 4), Segment(V, 6, 8, 2)], alpha=8)
    adapted = {name: values(0)[name] for name in layer_map.by_weight()}
    structure = structure_fingerprint({name: value.shape for name, value in adapted.items()})
    base = Base("its-base", structure, contents_fingerprint(adapted, adapted.get))
    numbers = np.random.default_rng(theta).normal(size=16).astype(np.float32)
    projection = Projection(D=layer_map.D, d=16, seed=42)
    save_adapter(Adapter(projection, layer_map, numbers, base, {name: values(1)[name] for name in saved}), path)
    return path


@pytest.fixture
def vec(tmp_path):
    write_base(tmp_path / "base")
    (tmp_path / "adapters").mkdir()
    return write_adapter(tmp_path / "adapters/vec.safetensors")


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_folder_is_that_of_export_lora_and_is_written_once(tmp_path, vec, monkeypatch):
    base, cache = tmp_path / "base", tmp_path / "some/cache"
    folder = lora_folder(vec, base, cache, max_rank=4)
    export_lora(vec, tmp_path / "lora", base)
    assert contents(folder) == contents(tmp_path / "lora")
    monkeypatch.setattr(prepare, "BaseFiles", None)  # neither compared nor written again
    assert lora_folder(vec, base, cache) == folder
    assert list(cache.iterdir()) == [folder]


def test_another_adapter_by_the_same_name_has_another_folder(tmp_path, vec):
    first = lora_folder(vec, tmp_path / "base", tmp_path / "cache")
    second = lora_folder(write_adapter(vec, theta=1), tmp_path / "base", tmp_path / "cache")
    assert first != second and contents(first) != contents(second)


def test_another_base_is_refused_also_where_the_folder_is_there(tmp_path, vec):
    lora_folder(vec, tmp_path / "base", tmp_path / "cache")
    write_base(tmp_path / "other", seed=1)
    with pytest.raises(BaseMismatch, match=r"^vec\.safetensors: the base's weights are not those .* not with .*other$"):
        lora_folder(vec, tmp_path / "other", tmp_path / "cache")
    write_base(tmp_path / "base", seed=2)  # the same folder, with other weights of the same size
    with pytest.raises(BaseMismatch):
        lora_folder(vec, tmp_path / "base", tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 1


@pytest.mark.parametrize(
    ("segments", "saved", "sentence"),
    [
        (
            [Segment(Q, 12, 8, 5)],
            (),
            "its rank is 5, and the server takes 4 at most; start the server with --max-lora-rank 5",
        ),
        (
            [Segment(Q, 6, 8, 3, row=0), Segment(Q, 6, 8, 3, row=6)],
            (),
            "its rank is 6, ",
        ),  # of one weight, side by side
        ([Segment(Q, 12, 8, 0)], (), f"{Q} is adapted with rank 0"),
        (None, [WORDS], f"{WORDS} is trained in full"),
        ([Segment(WORDS, 20, 8, 2)], (), f"{WORDS} is an embedding"),
        ([Segment(EXPERTS, 6, 8, 2, index=1)], (), f"{EXPERTS} is a stack of experts"),
        ([Segment(CONV, 6, 8, 2)], (), f"{CONV} is the weight of a convolution"),
    ],
)
def test_what_the_server_cannot_take_is_refused_by_its_name(tmp_path, vec, segments, saved, sentence):
    write_adapter(vec, segments, saved)
    with pytest.raises(UniLoraError) as error:
        lora_folder(vec, tmp_path / "base", tmp_path / "cache", max_rank=4)
    assert str(error.value).startswith(f"vec.safetensors: {sentence}")
    assert not (tmp_path / "cache").exists() or not list((tmp_path / "cache").iterdir())


def test_what_cannot_be_read_or_written_is_told(tmp_path, vec):
    with pytest.raises(UniLoraError, match=r"^vec\.safetensors: .*nowhere holds no \.safetensors file"):
        lora_folder(vec, tmp_path / "nowhere", tmp_path / "cache")
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(WorkFailed, match=r"^vec\.safetensors: .*cache: File exists$"):
        lora_folder(vec, tmp_path / "base", tmp_path / "cache")
    vec.write_bytes(b"nothing")
    with pytest.raises(UniLoraError, match=r"^vec\.safetensors: "):
        lora_folder(vec, tmp_path / "base", tmp_path / "cache")


def test_of_several_at_once_the_first_folder_stays_and_all_get_it(tmp_path, vec, monkeypatch):
    together, write = threading.Barrier(4), prepare.write_lora

    def write_together(*given):
        together.wait(30)  # all have seen that the folder is not there
        return write(*given)

    monkeypatch.setattr(prepare, "write_lora", write_together)
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(lora_folder, vec, tmp_path / "base", tmp_path / "cache") for _ in range(4)]
        folders = {call.result() for call in calls}
    assert [*folders] == list((tmp_path / "cache").iterdir())
    export_lora(vec, tmp_path / "lora", tmp_path / "base")
    assert contents(folders.pop()) == contents(tmp_path / "lora")


def test_a_name_is_a_file_in_the_folder_and_nothing_else(tmp_path, vec):
    adapters = vec.parent
    (tmp_path / "outside.safetensors").write_bytes(vec.read_bytes())
    (adapters / "link.safetensors").symlink_to(tmp_path / "outside.safetensors")
    (adapters / "folder.safetensors").mkdir()
    (adapters / "x").mkdir()
    assert adapter_file(adapters, "vec") == vec.resolve()
    for name in (
        "nobody", "link", "folder", "vec.safetensors", "../outside", "x/../vec", "./vec", "vec/", "", ".", "..", "a\0b", "\ud800",
        str(tmp_path / "outside"), "a" * 5000,
    ):  # fmt: skip
        assert adapter_file(adapters, name) is None, name


# vLLM's side


@pytest.fixture
def resolving(tmp_path, vec, monkeypatch):
    """The module with vLLM's two classes, and its registry; the environment names the folders."""
    resolvers = {}
    registry = SimpleNamespace(
        register_resolver=resolvers.__setitem__, get_resolver=resolvers.get, get_supported_resolvers=resolvers.keys
    )
    stand_ins = {"vllm": {}, "vllm.lora": {}, "vllm.lora.request": {"LoRARequest": SimpleNamespace}}
    stand_ins["vllm.lora.resolver"] = {"LoRAResolver": object, "LoRAResolverRegistry": registry}
    for name, members in stand_ins.items():
        module = ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "export.serving.vllm", raising=False)
    monkeypatch.setenv("UNILORA_VLLM_ADAPTERS", str(vec.parent))
    monkeypatch.setenv("UNILORA_VLLM_CACHE", str(tmp_path / "cache"))
    module = importlib.import_module("export.serving.vllm")
    yield module
    sys.modules.pop("export.serving.vllm")


def resolved(resolver, base, name):
    return asyncio.run(resolver.resolve_lora(str(base), name))


def test_the_resolver_gives_the_folder_by_the_files_name(tmp_path, vec, resolving):
    resolving.register()
    resolver = resolving.endpoint()
    found = resolved(resolver, tmp_path / "base", "vec")
    assert found.lora_name == "vec" and contents(Path(found.lora_path)) and found.lora_int_id > 0
    write_adapter(vec.with_name("two.safetensors"), theta=1)
    assert resolved(resolver, tmp_path / "base", "two").lora_int_id != found.lora_int_id
    assert resolved(resolver, tmp_path / "base", "../vec") is None
    with pytest.raises(UniLoraError, match="the server's base 'org/model' is no folder here.*HF_HUB_OFFLINE"):
        resolved(resolver, "org/model", "vec")


def test_the_limit_is_that_of_the_servers_configuration(tmp_path, resolving):
    resolving.register()
    resolver = resolving.endpoint()
    server = SimpleNamespace(vllm_config=SimpleNamespace(lora_config=SimpleNamespace(max_lora_rank=2)))
    asyncio.run(resolver.init_state(server, None, None))
    with pytest.raises(UniLoraError, match="its rank is 4, and the server takes 2 at most"):
        resolved(resolver, tmp_path / "base", "vec")
    server.vllm_config.lora_config = None
    for nothing in (server, None):  # without --enable-lora, and without an engine
        asyncio.run(resolver.init_state(nothing, None, None))
        assert resolver.max_rank is None


def test_nothing_is_registered_where_nobody_asks_for_it(tmp_path, resolving, monkeypatch):
    monkeypatch.delenv("UNILORA_VLLM_ADAPTERS")
    resolving.register()
    with pytest.raises(UniLoraError, match="UNILORA_VLLM_ADAPTERS is not set"):
        resolving.endpoint()
    monkeypatch.setenv("UNILORA_VLLM_ADAPTERS", str(tmp_path / "nowhere"))
    with pytest.raises(UniLoraError, match=r"UNILORA_VLLM_ADAPTERS is '.*nowhere', which is no folder"):
        resolving.register()


def test_it_needs_numpy_alone():
    """vLLM has another transformers than ours, and no typer of ours."""
    code = "import sys; [sys.modules.setdefault(name, None) for name in ('torch', 'transformers', 'safetensors', 'typer', 'rich')]"
    subprocess.run([sys.executable, "-c", f"{code}; import export.serving.prepare"], check=True, cwd=ROOT)
