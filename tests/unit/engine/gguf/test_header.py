"""A header is read as it was written, and any that lies is refused in one sentence, at once, and with little memory."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from gguf.constants import GGML_QUANT_SIZES
from gguf.constants import GGMLQuantizationType as Type
from hypothesis import given, settings
from hypothesis import strategies as st

from smolorad.engine.gguf.header import GgufHeader, open_shards
from smolorad.errors import Damaged, SmoloraError, UnsupportedModel
from tests.examples import examples
from tests.gguf_kit import write_file
from tests.unit.engine.gguf.raw import ARRAY, BOOL, STRING, U32, U64, Raw, array, tensor, text, typed, value

ENOUGH = 2**20  # bytes of memory, for a file of a few hundred bytes
DATA = bytes(range(256)) * 2
ARCHITECTURE = ("general.architecture", typed("llama"))
HUGE = 2**63
LAST = 2**64 - 1


def small() -> Raw:
    """A file that is read."""
    keys = [ARCHITECTURE, ("a", typed(7)), ("b", typed(["x", "é"])), ("c", array(7, [True, False])), ("d", typed(0.5))]
    return Raw(keys, [tensor("t", [8, 4]), tensor("u", [32, 2], int(Type.Q8_0), 128)], DATA)  # type: ignore[arg-type]


def changed(**changes: object) -> bytes:
    raw = small()
    for name, content in changes.items():
        setattr(raw, name, content)
    return raw.content()


def more(*keys: tuple[str | bytes, bytes]) -> bytes:
    raw = small()
    raw.keys += keys
    return raw.content()


def tensors(*described: bytes, data: bytes = DATA) -> bytes:
    return changed(tensors=list(described), data=data)


BROKEN: dict[str, bytes] = {
    "nothing": b"",
    "a magic number alone": b"GGUF",
    "another magic number": changed(magic=b"GGML"),
    "version 0": changed(version=0),
    "version 4": changed(version=4),
    "a header without its counts": small().content()[:20],
    "too many keys": changed(key_count=LAST),
    "too many tensors": changed(tensor_count=HUGE),
    "one key too many": changed(key_count=6),
    "one tensor too many": changed(tensor_count=3),
    "a key twice": more(("a", typed(8))),
    "a key without a name": more(("", typed(8))),
    "a name longer than the file": changed(keys=[], key_count=1, tensors=[text("x", HUGE)]),
    "a name of 5,000 bytes": more(("n" * 5000, typed(8))),
    "a name that is not UTF-8": more((b"\xff\xfe", typed(8))),
    "a text that is not UTF-8": more(("e", value(STRING, text(b"\xff")))),
    "half of a character": more(("e", value(STRING, text(b"\xed\xa0\x80")))),
    "a text longer than the file": more(("e", value(STRING, text("x", HUGE)))),
    "a text of almost 2^64 bytes": more(("e", value(STRING, text("x", LAST)))),
    "an unknown type": more(("e", value(13, b"\0" * 8))),
    "a type without measure": more(("e", value(2**32 - 1, b""))),
    "a list of lists": more(("e", struct.pack("<IIQ", ARRAY, ARRAY, 1) + array(U32, [1]))),
    "a list of an unknown type": more(("e", struct.pack("<IIQ", ARRAY, 99, 1) + bytes(8))),
    "a list longer than the file": more(("e", array(U32, [1], 2**20))),
    "a list without measure": more(("e", array(U64, [1], LAST))),
    "a list of texts longer than the file": more(("e", array(STRING, ["x"], 2**20))),
    "a list of empty texts without measure": more(("e", array(STRING, [""], HUGE))),
    "an alignment of 0": more(("general.alignment", typed(0))),
    "an alignment of 3": more(("general.alignment", typed(3))),
    "an alignment of 2^40": more(("general.alignment", value(U64, 2**40))),
    "a negative alignment": more(("general.alignment", value(11, -32))),
    "an alignment that is a text": more(("general.alignment", typed("32"))),
    "an alignment that is true": more(("general.alignment", value(BOOL, True))),
    "an alignment that is a list": more(("general.alignment", array(U32, [32]))),
    "a tensor twice": tensors(tensor("t", [8, 4]), tensor("t", [8, 4], 0, 128)),
    "a tensor without a name": tensors(tensor("", [8, 4])),
    "no dimensions": tensors(tensor("t", [])),
    "five dimensions": tensors(tensor("t", [1, 1, 1, 1, 1])),
    "2^32 - 1 dimensions": tensors(tensor("t", [8], dimensions=2**32 - 1)),
    "a length of 0": tensors(tensor("t", [8, 0])),
    "a row of 0": tensors(tensor("t", [0, 8])),
    "a length of 2^63": tensors(tensor("t", [8, HUGE])),
    "lengths that overflow together": tensors(tensor("t", [2**32, 2**32])),
    "lengths that overflow to a small number": tensors(tensor("t", [2**33, 2**33, 2**62, 4])),
    "half a block": tensors(tensor("t", [33, 2], int(Type.Q8_0))),
    "an offset between alignments": tensors(tensor("t", [8, 4], 0, 16)),
    "an offset of 2^63": tensors(tensor("t", [8, 4], 0, HUGE)),
    "an offset of almost 2^64": tensors(tensor("t", [8, 4], 0, LAST - 31)),
    "one tensor over the other": tensors(tensor("t", [8, 4]), tensor("u", [8, 4], 0, 96)),
    "two tensors in one place": tensors(tensor("t", [8, 4]), tensor("u", [8, 4])),
    "bytes that are not there": tensors(tensor("t", [8, 4]), data=DATA[:127]),
    "a name that cannot be printed, over another": tensors(tensor("t", [8, 4]), tensor("a\n\x1b[31m\x00", [8, 4])),
    "a key that cannot be printed, twice": more(("k\r\n\x1b", typed(1)), ("k\r\n\x1b", typed(1))),
    "an alignment that cannot be printed": more(("general.alignment", typed("\n\x1b[2J" * 100))),
}
NOT_READ = {
    "version 1": (changed(version=1), "is GGUF of version 1"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), r"the other byte order \(big-endian\)"),
    "numbers of an unknown format": (tensors(tensor("t\n", [8, 4], 77)), r"number 77 of ggml, in 't\\n'\); choose a file in"),
    "numbers of a format that is gone": (tensors(tensor("t", [32, 4], 4)), "number 4 of ggml"),
}


def assert_refused(content: bytes, folder: Path, kind: type[SmoloraError] = SmoloraError) -> str:
    path = folder / "model.gguf"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(kind) as caught:
            GgufHeader.open(path)
        assert tracemalloc.get_traced_memory()[1] < ENOUGH
    finally:
        tracemalloc.stop()
    message = caught.value.message
    assert message.isprintable()
    assert message.startswith(str(path))
    assert message.endswith(".")
    assert len(message) < 600
    return message


@pytest.mark.parametrize("what", BROKEN)
def test_a_header_that_lies(what: str, tmp_path: Path) -> None:
    message = assert_refused(BROKEN[what], tmp_path, Damaged)
    assert "is cut short or damaged (" in message
    assert message.endswith("); download it again.")


@pytest.mark.parametrize("what", NOT_READ)
def test_a_file_that_is_whole_and_not_read(what: str, tmp_path: Path) -> None:
    content, said = NOT_READ[what]
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(UnsupportedModel, match=said) as caught:
        GgufHeader.open(path)
    assert caught.value.message.isprintable()


def test_every_cut(tmp_path: Path) -> None:
    content = small().content()
    needed = 128 + 2 * GGML_QUANT_SIZES[Type.Q8_0][1]  # of the tensors' bytes
    for end in range(len(content) - len(DATA) + needed):
        assert_refused(content[:end], tmp_path, Damaged)
    (tmp_path / "model.gguf").write_bytes(content[: len(content) - len(DATA) + needed])
    assert len(GgufHeader.open(tmp_path / "model.gguf").tensors) == 2


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    keys = {"a": 7, "b": ["x", "é", ""], "c": [True, False], "d": 0.5, "e": True, "f": "ä", "g": [1, -2]}
    keys["general.alignment"] = 64
    arrays = {"t": np.ones((3, 5), np.float32), "u": np.zeros(7, np.float16), "v": np.zeros((2, 3, 4), np.float32)}
    write_file(path, "llama", keys, arrays)
    found = GgufHeader.open(path)
    assert {name.removeprefix("llama."): content for name, content in found.metadata.items()} == {
        "general.architecture": "llama",
        **keys,
    }
    assert {one.name: (one.type, one.shape, one.nbytes) for one in found.tensors} == {
        "t": (Type.F32, (3, 5), 60),
        "u": (Type.F16, (7,), 14),
        "v": (Type.F32, (2, 3, 4), 96),
    }
    content = path.read_bytes()
    assert content[found.tensors[0].begin :][:60] == arrays["t"].tobytes()
    assert all(one.begin % 64 == 0 for one in found.tensors)


def test_every_type_of_value(tmp_path: Path) -> None:
    values = {0: 255, 1: -128, 2: 2**16 - 1, 3: -(2**15), 4: 2**32 - 1, 5: -(2**31), 6: 0.5, 7: True}
    values |= {10: LAST, 11: -HUGE, 12: 0.1}
    raw = small()
    raw.keys += [(f"one.{kind}", value(kind, content)) for kind, content in values.items()]
    raw.keys += [(f"list.{kind}", array(kind, [content] * 3)) for kind, content in values.items()]
    raw.version = 2
    path = tmp_path / "model.gguf"
    path.write_bytes(raw.content())
    metadata = GgufHeader.open(path).metadata
    for kind, content in values.items():
        assert (metadata[f"one.{kind}"], metadata[f"list.{kind}"]) == (content, [content] * 3)
        assert type(metadata[f"one.{kind}"]) is type(content)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A small file with some bytes changed, cut out or put in: most are numbers that a header counts with."""
    content = bytearray(small().content())
    lies = [struct.pack("<Q", number) for number in (0, 1, 2**31, 2**32, HUGE, LAST)] + [b"\xff", b"\0", b"\n", b"GGUF"]
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(content) - 1))
        lie = draw(st.one_of(st.sampled_from(lies), st.binary(min_size=1, max_size=9)))
        match draw(st.sampled_from(["set", "set", "cut", "add"])):
            case "set":
                content[at : at + len(lie)] = lie
            case "cut":
                del content[at : at + draw(st.integers(1, 40))]
            case "add":
                content[at:at] = lie
        if not content:
            break
    return bytes(content)


@settings(max_examples=examples(500))
@given(content=damaged())
def test_any_damage(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.gguf"
    path.write_bytes(content)
    refused, end = None, 0
    tracemalloc.start()
    try:
        found = GgufHeader.open(path)
    except (Damaged, UnsupportedModel) as error:
        refused = error.message
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < ENOUGH
    if refused is not None:
        assert refused.isprintable()
        return
    for one in found.tensors:
        assert end <= one.begin
        assert one.begin + one.nbytes <= len(content)
        assert one.rows * one.columns > 0
        end = one.begin + one.nbytes


def test_a_header_of_many_empty_texts(tmp_path: Path) -> None:
    raw = small()
    raw.keys.append(("e", array(STRING, [""] * 5, 2**24 + 1)))
    message = assert_refused(raw.content(), tmp_path, Damaged)
    assert "its lists have more than 16,777,216 entries" in message


def part(folder: Path, number: int, count: int, name: str = "model", total: int = 3, **changes: int) -> Path:
    keys = {"split.no": number, "split.count": count, "split.tensors.count": total, **changes}
    arrays = {f"t{number}": np.full(4, number, np.float32)}
    return write_file(folder / f"{name}-{number + 1:05}-of-{count:05}.gguf", "llama", keys, arrays)


def test_files_of_one_model(tmp_path: Path) -> None:
    paths = tuple(part(tmp_path, number, 3) for number in range(3))
    assert [one.tensors[0].name for one in open_shards(paths)] == ["t0", "t1", "t2"]
    for wrong, said in (
        ((paths[1], paths[0], paths[2]), r"says it is file 2 of 3, not 1 of 3"),
        (paths[:2], r"says it is file 1 of 3, not 1 of 2"),
        ((paths[0], paths[1], part(tmp_path / "other", 1, 3)), r"says it is file 2 of 3, not 3 of 3"),
        ((part(tmp_path / "more", 0, 3, total=4), *paths[1:]), r"have 3 tensors, not 4"),
    ):
        with pytest.raises(Damaged, match=said) as caught:
            open_shards(wrong)
        assert "put all files of the model into one folder" in caught.value.message


@pytest.mark.parametrize("lie", ["x", [1], True, -1, 2**40, "\n"])
def test_numbers_of_files_that_lie(lie: object, tmp_path: Path) -> None:
    for key in ("split.no", "split.count", "split.tensors.count"):
        path = tmp_path / "model.gguf"
        path.write_bytes(Raw([ARCHITECTURE, (key, typed(lie))], [tensor("t", [8])], DATA).content())
        if lie is True and key != "split.no":  # is 1
            open_shards((path,))
            continue
        with pytest.raises(Damaged) as caught:
            open_shards((path,))
        assert caught.value.message.isprintable()
