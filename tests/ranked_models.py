"""Small models whose ranks are planned."""

from runs import base, halt_at, one_thread, own_cache, refusal, reviews, small  # noqa: F401  fixtures


def options(small, **more):
    return {name: value for name, value in (small | more).items() if value is not None}
