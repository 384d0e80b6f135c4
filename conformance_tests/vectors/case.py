"""What one vector is: a request with its answer, or with the rules that refuse it."""

from ..judge import packed


def vector(rule, comment, request, answer=None, refused=None, flags=(), **fields) -> dict:
    """A case without its id; ``fields`` are the request's, arrays as lists of numbers."""
    case = {"rule": rule, "comment": comment, "flags": [*flags, *(["invalid"] if refused else [])]}
    case["request"] = {"request": request, **packed(fields)}
    return case | ({"refused": refused} if refused else {"answer": packed(answer)})


def projection(kind, d, D, seed=42):
    return {"kind": kind, "seed": str(seed), "d": d, "D": D}
