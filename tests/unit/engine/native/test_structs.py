"""The structures that Python mirrors: a library that lays one out otherwise is not used."""

from __future__ import annotations

import ctypes
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smolora.common.paths import cache_path
from smolorad.engine.native import build, structs
from smolorad.engine.native.library import Format
from smolorad.engine.native.structs import DECODE_STRUCTS, TRAIN_STRUCTS
from smolorad.errors import Internal

# (file, what is in it once, what it becomes)
BROKEN = {
    "a field more": ("decode_state.h", "    int32_t every; ", "    int32_t every, more[2]; "),
    "another size": ("decode_state.h", "    float scale;\n} Lora;", "    double scale;\n} Lora;"),
    "a structure more": ("decode.c", "LAYOUT_OF(Lora, scale),", "LAYOUT_OF(Lora, scale), LAYOUT_OF(Vectors, panel),"),
}


def test_every_mirror_is_laid_out_as_in_c() -> None:
    assert build.library(cache_path(), 1) is not None
    for format in (Format.FP32, Format.BF16):
        assert build.train_library(cache_path(), format) is not None
    mirrors = [each for each in vars(structs).values() if isinstance(each, type) and each.__name__.endswith("Struct")]
    assert set(mirrors) == {*DECODE_STRUCTS, *TRAIN_STRUCTS}


def fields_in_c(name: str) -> list[str]:
    """The names of a structure's fields, as the headers declare them."""
    sources = "\n".join(path.read_text() for path in sorted(build._FOLDER.glob("*.h")))
    (body,) = re.findall(rf"typedef struct \{{([^{{}}]*)\}} {name};", re.sub(r"/\*.*?\*/", "", sources, flags=re.DOTALL))
    names: list[str] = []
    for declaration in body.split(";")[:-1]:
        pointer = re.search(r"\(\*(\w+)\)\(", declaration)  # to a function
        names += [pointer[1]] if pointer else re.findall(r"(\w+)(?:\[\w+\])?\s*(?:,|$)", declaration)
    return names


@pytest.mark.parametrize("mirror", [*DECODE_STRUCTS, *TRAIN_STRUCTS], ids=lambda mirror: mirror.__name__)
def test_a_mirror_has_the_fields_of_c_in_their_order(mirror: type[ctypes.Structure]) -> None:
    assert [name for name, *_ in mirror._fields_] == fields_in_c(mirror.__name__.removesuffix("Struct"))


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_a_library_of_another_layout_is_refused(
    broken: tuple[str, str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, right, wrong = broken
    sources = tmp_path / "sources"
    shutil.copytree(build._FOLDER, sources)
    text = (sources / name).read_text()
    assert text.count(right) == 1
    (sources / name).write_text(text.replace(right, wrong))
    monkeypatch.setattr(build, "_FOLDER", sources)
    monkeypatch.setattr(build, "_FLAGS", ("-O0", *build._FLAGS[1:]))  # compiles in a fifth of the time; the layout is the same
    with pytest.raises(Internal, match=r"lays out \w+ as .*This is a bug in smolora"):
        build.library(tmp_path / "cache", 1)


@pytest.mark.parametrize(
    "change",
    [lambda fields: fields[:-1], lambda fields: (*fields, ("more", ctypes.c_int32))],
    ids=["a field less", "a field more"],
)
def test_a_mirror_of_another_layout_is_refused(change: Callable[[Any], Any]) -> None:
    loaded = build.train_library(cache_path(), Format.FP32)
    assert loaded is not None
    for mirror in TRAIN_STRUCTS:
        other = type(mirror.__name__, (ctypes.Structure,), {"_fields_": change(mirror._fields_)})
        changed = tuple(other if each is mirror else each for each in TRAIN_STRUCTS)
        with pytest.raises(Internal, match=f"lays out {mirror.__name__.removesuffix('Struct')} as"):
            structs.check_structs(loaded, changed)
