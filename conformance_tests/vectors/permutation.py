"""Keys, the mixing function, π and π⁻¹, and rows and columns of the kind `balanced` (SPEC 2 to 4)."""

from ..oracle import arithmetic
from .case import projection, vector


def keys():
    for seed in (0, 1, 42, 2**32 - 1, 2**32, 2**53 + 1, 2**63, 2**64 - 1):
        flags = ("large",) if seed >= 2**32 else ()
        yield vector(
            "2.2", f"the ten keys of seed {seed}", "keys", {"keys": arithmetic.keys(seed)}, seed=str(seed), flags=flags
        )


def mixing():
    words = [0, 1, 2, 0x7FFFFFFF, 0x80000000, 0xFFFF0000, 0xFFFFFFFF, 0x12345678, 0xDEADBEEF]
    for key in (0, 1, 0x80000000, 0xFFFFFFFF, arithmetic.keys(42)[0]):
        mixed = [arithmetic.mix(word, key) for word in words]
        yield vector("3.1", f"with the key {key:08X}", "mix", {"mixed": mixed}, words=words, key=key)


def balanced():
    for D in (1, 2, 3, 4, 5, 10, 16, 17, 99, 100, 101):
        y = [arithmetic.walk(D, 42, x)[-1] for x in range(D)]
        rule = "4.2" if arithmetic.side(D) ** 2 == D else "4.3"
        yield vector(
            rule, f"all of π, D = {D}", "permutation", {"y": y}, seed="42", D=D, x=list(range(D)), flags=("edge",)
        )
        x = [arithmetic.inverse(D, 42, y) for y in range(D)]
        yield vector(
            "4.4", f"all of π⁻¹, D = {D}", "inverse", {"x": x}, seed="42", D=D, y=list(range(D)), flags=("edge",)
        )
    for D in (2**20 + 1, 46341**2, 2**31, 2**32 + 1, (2**20 - 1) ** 2 + 1, 2**40 - 1, 2**40):
        x = [0, 1, D // 2, D - 2, D - 1]
        for seed in (0, 42, 2**64 - 1):
            y = [arithmetic.walk(D, seed, value)[-1] for value in x]
            comment = f"D = {D}, seed {seed}"
            yield vector("4.3", f"π, {comment}", "permutation", {"y": y}, seed=str(seed), D=D, x=x, flags=("large",))
            yield vector("4.4", f"π⁻¹, {comment}", "inverse", {"x": x}, seed=str(seed), D=D, y=y, flags=("large",))
    for d, D in ((1, 1), (1, 7), (7, 7), (4, 10), (5, 10), (3, 10), (5760, 36864), (2**31 - 1, 2**40), (1000, 2**40)):
        p, flags = projection("balanced", d, D), ("large",) if D > 2**32 else ()
        for start, stop in ((0, min(D, 12)), (max(D - 12, 0), D)):
            index = [arithmetic.index("balanced", D, d, 42, i) for i in range(start, stop)]
            comment = f"rows [{start}, {stop}), d = {d}, D = {D}"
            yield vector("4.5", comment, "index", {"index": index}, projection=p, start=start, stop=stop, flags=flags)
        if D // d < 1000:
            for j in {0, D % d, d - 1}:
                members = arithmetic.members("balanced", D, d, 42, j)
                expected = {"counts": [len(members)], "members": members}
                comment = f"column {j}, d = {d}, D = {D}"
                yield vector("4.6", comment, "members", expected, projection=p, start=j, stop=j + 1, flags=flags)
