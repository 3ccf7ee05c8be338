"""How many examples Hypothesis tries: all of them in `make test-long`, a quarter otherwise.

`make test-long` finds those tests by Hypothesis' mark, which a test that calls a function with examples carries itself.
"""

from __future__ import annotations

from hypothesis import settings

PROFILE, LONG_PROFILE = "smolora", "long"
_ALL = 100  # of a test that does not say how many

# The same examples each time, however slow the machine is.
settings.register_profile(LONG_PROFILE, deadline=None, derandomize=True, max_examples=_ALL)
settings.register_profile(PROFILE, settings.get_profile(LONG_PROFILE), max_examples=_ALL // 4)


def examples(count: int) -> int:
    """How many of `count` are tried under the profile that is loaded."""
    return max(5, count * settings.default.max_examples // _ALL)
