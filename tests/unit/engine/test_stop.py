"""Stop strings: found across borders, and never dependent on how the text was cut."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from smolorad.engine.stop import StopStrings


def run(stops: list[str], pieces: list[str]) -> tuple[str, bool]:
    stop = StopStrings(stops)
    passed = "".join(stop.push(piece) for piece in pieces)
    return passed + stop.flush(), stop.met


def naive(stops: list[str], text: str) -> tuple[str, bool]:
    """Reads character by character: the first moment at which the text ends with a stop string is the end."""
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stops if stop and text[:end].endswith(stop)]
        if ending:
            return text[: end - max(map(len, ending))], True
    return text, False


few = st.text(alphabet="abc", max_size=4)


@given(stops=st.lists(few, max_size=3), pieces=st.lists(few, max_size=12))
def test_equals_reading_character_by_character(stops: list[str], pieces: list[str]) -> None:
    assert run(stops, pieces) == naive(stops, "".join(pieces))


@given(stops=st.lists(few.filter(bool), min_size=1, max_size=3), pieces=st.lists(few, max_size=12))
def test_what_has_gone_out_never_holds_a_stop_string(stops: list[str], pieces: list[str]) -> None:
    stop = StopStrings(stops)
    out = ""
    for piece in pieces:
        out += stop.push(piece)
        assert not any(s in out for s in stops)


def test_across_borders_and_held_back_text_at_the_end() -> None:
    assert run(["</s>"], ["one <", "/", "s", "> two"]) == ("one ", True)
    assert run(["</s>"], ["one <", "/"]) == ("one </", False)
    assert run(["ab", "b"], ["xab"]) == ("x", True)
    assert run([], ["x", "y"]) == ("xy", False)


def test_text_that_cannot_begin_a_stop_string_is_not_held() -> None:
    stop = StopStrings(["END"])
    assert stop.push("hello") == "hello"
    assert stop.push("E") == ""
    assert stop.push("x") == "Ex"
    assert stop.push("END and more") == ""
    assert stop.push("after") == ""
