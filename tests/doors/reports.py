"""A report of a conformance run."""

from .door import DEEP, Door, Seed, text

REPORT = {
    "implementation": {"name": "mine", "version": "0", "requests": ["describe", "keys"], "kinds": ["balanced"]},
    "specification": "1",
    "call": {"impl": "./mine", "examples": 40, "seed": 0, "rules": [], "chapters": [], "level": None},
    "level": None,
    "rules": {},
    "checks": [{"outcome": "passed"}, {"outcome": "not supported"}],
}

DOORS = [
    Door(
        "report of a conformance run",
        ("conformance_tests.implementations", "report.json", "--folder", "all"),
        "report.json",
        {},
        {"sound": Seed(text(REPORT), None), **DEEP, "another object": Seed(b"{}", "it is no report of a run")},
    ),
]
