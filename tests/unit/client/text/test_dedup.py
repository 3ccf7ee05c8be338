"""Nothing is lost but repetitions, and the order stays."""

from __future__ import annotations

import sys

from hypothesis import given
from hypothesis import strategies as st

from smolora.common.text.dedup import Seen, deduplicated


@given(st.lists(st.text(st.sampled_from("ab \u00e4"), max_size=4)))
def test_the_first_of_each_is_kept_in_order(texts: list[str]) -> None:
    assert list(deduplicated(texts)) == list(dict.fromkeys(texts))


def test_a_table_that_grew_several_times_remembers_every_text() -> None:
    seen = Seen()
    texts = [f"text {n}" for n in range(300_000)]
    assert all(seen.add(text) for text in texts)
    assert not any(seen.add(text) for text in texts[::7])
    assert len(seen) == len(texts)
    assert sys.getsizeof(seen._table) <= 33 * len(texts)
