"""Damage to small files: one strategy for everything that is read from a folder.

A JSON file has a value replaced by one of another type, a key taken away or written twice; any file is cut, emptied, removed,
nested deeply, has bytes flipped, or becomes a folder. A safetensors file is changed in its header alone.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from smolorad.errors import Internal, InvalidRequest, SmoloraError
from tests.examples import examples

LIMIT_S = 5.0  # of the processor's time, which does not depend on who else works
MUTATIONS = 200  # of each kind of folder
DEEP = 100_000

# Each of another type, or of a size that nobody means.
_WHOLE = (0, 1, -1, -5, 3, 255, 2**20, 100_000, 2**31 - 1, 2**31, 10**9, 2**63, 10**30)
_NUMBERS = (*_WHOLE, 0.0, 0.5, -2.5, 1e300, math.inf, math.nan)
_TEXTS = ("", "x", "4", "silu", "../x", "/etc/passwd", "\ud800", "\0", "a" * 5000, "((", "{{ messages[0]['content'] }}")
_OTHERS = (None, True, False, [], [1, 2], ["x"], [None], [[1], [2]], {}, {"x": 1}, {"": None}, {"rope_type": ["x"]}, [0] * 2000)
_VALUES: tuple[Any, ...] = (*_NUMBERS, *_TEXTS, *_OTHERS)


class Mutation:
    """One file that is damaged. No data class: hypothesis would print its bytes."""

    def __init__(self, file: str, how: str, content: bytes | None, as_folder: bool = False) -> None:
        """`content`: None if the file is gone."""
        self.file = file
        self.how = how
        self.content = content
        self.as_folder = as_folder

    def __repr__(self) -> str:
        return f"{self.file}: {self.how}"

    def apply(self, folder: Path) -> None:
        """Damages the file of a folder."""
        path = folder / self.file
        path.unlink()
        if self.as_folder:
            path.mkdir()
        elif self.content is not None:
            path.write_bytes(self.content)


def mutations(folder: Path, files: Sequence[str] = ()) -> st.SearchStrategy[Mutation]:
    """Damage to one of a folder's files; by default to any of them."""
    names = tuple(files) or tuple(sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()))
    whole = {name: (folder / name).read_bytes() for name in names}
    return st.sampled_from(names).flatmap(lambda name: _of_file(name, whole[name]))


def _of_file(name: str, content: bytes) -> st.SearchStrategy[Mutation]:
    kinds = [_of_bytes(name, content)]
    if name.endswith(".safetensors"):
        length = int.from_bytes(content[:8], "little")
        return st.one_of(_of_json(name, content[8 : 8 + length], _as_header(content[8 + length :])), *kinds)
    try:
        json.loads(content)
    except ValueError:
        return kinds[0]
    return st.one_of(*[_of_json(name, content)] * 3, *kinds)


def _as_header(rest: bytes) -> Callable[[bytes], bytes]:
    return lambda header: len(header).to_bytes(8, "little") + header + rest


@st.composite
def _of_bytes(draw: st.DrawFn, name: str, content: bytes) -> Mutation:
    how = draw(st.sampled_from(("cut", "emptied", "gone", "deep", "deep keys", "flipped", "a folder", "no text", "spaces")))
    changed: bytes | None = content
    depth = DEEP if ".json" in name else DEEP // 100  # elsewhere it is text
    match how:
        case "cut":
            at = draw(st.integers(0, max(len(content) - 1, 0)))
            how, changed = f"cut at {at}", content[:at]
        case "emptied":
            changed = b""
        case "gone":
            changed = None
        case "deep":
            changed = b"[" * depth + b"]" * depth
        case "deep keys":
            changed = b'{"a":' * depth + b"1" + b"}" * depth
        case "flipped":
            at = draw(st.integers(0, min(len(content), 4096) - 1)) if content else 0
            flipped = bytes(255 - one for one in content[at : at + 1])
            how, changed = f"flipped at {at}", content[:at] + flipped + content[at + 1 :]
        case "no text":
            changed = bytes(range(256))
        case "spaces":
            changed = b" \n" * 50
    return Mutation(name, how, changed, how == "a folder")


@st.composite
def _of_json(draw: st.DrawFn, name: str, content: bytes, packed: Callable[[bytes], bytes] = bytes) -> Mutation:
    value = json.loads(content)
    path = draw(_places(value))
    if not path:
        return Mutation(name, "replaced", packed(_dumped(draw(st.sampled_from(_VALUES)))))
    parent, key = value, path[-1]
    for step in path[:-1]:
        parent = parent[step]
    how = draw(st.sampled_from(("replaced", "replaced", "replaced", "removed", "doubled", "deep")))
    if how == "removed":
        del parent[key]
        return Mutation(name, f"without {path}", packed(_dumped(value)))
    if how == "deep":
        parent[key] = "\x01deep"
        nested = b"[" * 5000 + b"]" * 5000
        return Mutation(name, f"{path} nested deeply", packed(_dumped(value).replace(b'"\\u0001deep"', nested)))
    new = draw(st.sampled_from(_VALUES))
    if how == "doubled" and isinstance(parent, dict):
        parent["\x01again"] = new
        again = _dumped(value).replace(b'"\\u0001again"', json.dumps(key).encode())
        return Mutation(name, f"{path} again, as {str(new)[:60]!r}", packed(again))
    parent[key] = new
    return Mutation(name, f"{path} = {str(new)[:60]!r}", packed(_dumped(value)))


@st.composite
def _places(draw: st.DrawFn, value: Any) -> tuple[Any, ...]:
    """Where a value stands in a document; those at the top are as likely as all below them."""
    path: tuple[Any, ...] = ()
    while value and isinstance(value, dict | list) and (not path or draw(st.booleans())):
        key = draw(st.sampled_from(sorted(value) if isinstance(value, dict) else range(len(value))))
        path, value = (*path, key), value[key]
    return path


def _dumped(value: Any) -> bytes:
    return json.dumps(value).encode()


@contextmanager
def copied(folder: Path, to: Path) -> Iterator[Path]:
    """A copy of a folder for one example."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(folder, to)
    yield to
    shutil.rmtree(to, ignore_errors=True)


def contained(work: Callable[[], object]) -> SmoloraError | None:
    """Whether it works, or what it is refused with: a sentence in our words, and in time."""
    begin, refused = time.process_time(), None
    try:
        work()
    except SmoloraError as error:
        refused = error
    assert time.process_time() - begin < LIMIT_S, "it took too long"
    if refused is not None:
        said = refused.message
        assert not isinstance(refused, Internal), said
        assert isinstance(refused, InvalidRequest) or said.endswith((".", "`")), said
        assert said.isprintable(), said
        assert said.encode(), said
    return refused


def damage(most: int = MUTATIONS) -> settings:
    """How often a test damages something: the same mutations on every machine."""
    given_up = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(max_examples=examples(most), deadline=None, derandomize=True, database=None, suppress_health_check=given_up)
