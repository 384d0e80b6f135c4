"""The Triton kernels: their bits, where they run, and what the compiler makes of them, for which no GPU is needed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
triton = pytest.importorskip("triton")

import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import create_function_from_signature

from backends.torch.adapter.theta import triton_kernels as kernels

ROOT = Path(__file__).parents[1]
compiles = pytest.mark.skipif(triton.knobs.runtime.interpret, reason="TRITON_INTERPRET is set; nothing is compiled")
H100 = GPUTarget("cuda", 90, 32)


def python(*arguments, **variables):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path[1:])]), **variables}
    call = [sys.executable, *arguments]
    return subprocess.run(call, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


# Whether Triton interprets or compiles is settled for a process when it is first imported, its own library of functions
# included, and torch and transformers may import it before a test module can set the variable. So the bits are compared
# in processes of their own, and no other test meets a Triton that interprets.
@pytest.mark.parametrize(
    "interpreted",
    ["1", pytest.param("0", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))],
)
def test_the_kernels_have_the_references_bits(interpreted, tmp_path):
    options = ["-p", "no:cacheprovider", "--basetemp", tmp_path / "bits"]
    done = python("-m", "pytest", *map(str, options), "tests/triton_bits.py", TRITON_INTERPRET=interpreted)
    assert done.returncode == 0, done.stdout[-5000:]


def test_the_backend_is_imported_without_triton():
    done = python("-c", "import sys, backends.torch.adapter.attach; sys.exit('triton' in sys.modules)")
    assert done.returncode == 0, done.stderr


# Compiled


VARIANTS = [
    *((kernels._index, {"out": "*i32"}, word) for word in (tl.uint32, tl.uint64)),
    *((kernels._expand, {"out": f"*{out}", "theta": "*fp32"}, tl.uint32) for out in ("fp32", "fp16", "bf16")),
    (kernels._expand, {"out": "*bf16", "theta": "*bf16"}, tl.uint64),
    *((kernels._partial_sums, {"out": "*fp32", "g": f"*{g}"}, tl.uint32) for g in ("fp32", "fp16", "bf16")),
    (kernels._partial_sums, {"out": "*fp32", "g": "*fp32"}, tl.uint64),
    (kernels._totals, {"out": "*fp32", "partial": "*fp32"}, None),
]


@compiles
@pytest.mark.parametrize(("kernel", "pointers", "word"), VARIANTS)
def test_what_the_compiler_makes_rounds_as_the_specification(kernel, pointers, word, tmp_path, monkeypatch):
    """No denormal flushed to zero, nothing fused, no atomic; each product, sum and conversion rounds to nearest."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    constants = {"word": word, "BLOCK": kernels.BLOCK}
    types = {p.name: "constexpr" if p.is_constexpr else p.annotation_type or "fp32" for p in kernel.params} | pointers
    source = ASTSource(kernel, types, {name: constants[name] for name in types if name in constants})
    code = triton.compile(source, target=H100, options=kernels.OPTIONS).asm["ptx"]
    assert not re.search(r"\.ftz|\bfma\.|\batom\.|\bred\.", code)
    arithmetic = set(re.findall(r"\b(?:(?:mul|add|sub)\S*\.f32|cvt\S*\.b?f16\S*\.f32)", code))
    assert all(".rn." in operation for operation in arithmetic)
    assert (kernel is kernels._index) == (not arithmetic)


@compiles
@pytest.mark.parametrize("kernel", [kernels._index, kernels._expand, kernels._partial_sums, kernels._totals])
def test_no_number_makes_a_compilation_of_its_own(kernel):
    """What Triton compiles by: the same for 1, which it would build in, multiples of 16 and keys beyond 2^31."""
    backend = make_backend(H100)
    compiled_by = create_function_from_signature(kernel.signature, kernel.params, backend)
    numbers = [p.name for p in kernel.params if p.annotation_type]
    others = {p.name: None if p.is_constexpr else 1.0 for p in kernel.params if p.name not in numbers}
    values = (0, 1, 2, 16, 2**31 - 1, 2**31, 2**32 - 1)
    found = {str(compiled_by(**others, **dict.fromkeys(numbers, value))[1]) for value in values}
    assert len(numbers) >= 3 and len(found) == 1
