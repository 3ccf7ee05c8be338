"""Writes clients/python/smolora/_fields.py: the settings a user may give, with the contract's comments as their help.

The command line makes its flags of it and the client its keywords: neither has a list of its own. scripts/proto.sh calls it.

usage: scripts/fields.py [OUTPUT_ROOT]     (default: the repository)
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = Path("clients/python/smolora/_fields.py")
# Group → the file and the message it comes from, and the fields that are no setting.
GROUPS = {
    "LORA": ("settings", "LoraSettings", ()),
    "TRAINER": ("settings", "TrainerSettings", ()),
    "SAMPLING": ("generation", "Sampling", ()),
    "PREPARE": (
        "datasets",
        "PrepareDatasetRequest",
        ("name", "upload_id", "hub", "request_id", "source_fingerprint"),
    ),
}
# Group → whose keywords its settings are.
TAKERS = {"LORA": "TRAINER", "TRAINER": "TRAINER", "PREPARE": "PREPARE"}
KINDS = {"int32": "int", "int64": "int", "double": "float", "string": "str", "bool": "bool"}
TYPES = {"strs": "Iterable[str]", "ints": "Iterable[int]", "map": "Mapping[str, int]", "names": "Mapping[str, str]"}
MAPS = {"map<string, int32>": "map", "map<string, string>": "names"}

HEAD = '''"""The settings a user may give. GENERATED from proto/ by scripts/fields.py."""

# fmt: off
# ruff: noqa: E501
from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypedDict


@dataclass(frozen=True, slots=True)
class Field:
    """One setting: its name in the contract, its kind, and the contract's comment.

    The kind is int, float, str, bool, strs, ints, map (numbers by name), names (names by name), or the choices, as `fail|drop`.
    """

    name: str
    kind: str
    help: str

'''


def fields_of(proto: str, message: str) -> Iterator[tuple[str, str, str]]:
    """Name, kind and comment of each scalar field of a message."""
    body = re.search(rf"^message {message} {{\n(.*?)^}}", proto, re.DOTALL | re.MULTILINE)
    if body is None:
        raise SystemExit(f"scripts/fields.py: there is no message {message}")
    comment: list[str] = []
    for line in body[1].splitlines():
        text = line.strip()
        if text.startswith("//"):
            comment.append(text.removeprefix("//").strip())
            continue
        if field := re.fullmatch(r"(optional |repeated )?(map<string, \w+>|\w+) (\w+) = \d+;", text):
            label, kind, name = field.groups()
            if kind in MAPS:
                kind = MAPS[kind]
            elif kind in KINDS:
                kind = KINDS[kind] + ("s" if label == "repeated " else "")
            else:
                kind = "|".join(choices_of(proto, kind))
            yield name, kind, " ".join(comment)
        comment = []


def choices_of(proto: str, enum: str) -> list[str]:
    """The values of an enum as a user writes them: `fail`, `drop`."""
    body = re.search(rf"^enum {enum} {{\n(.*?)^}}", proto, re.DOTALL | re.MULTILINE)
    if body is None:
        return []
    prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", enum).upper() + "_"
    values = re.findall(rf"^  {prefix}(\w+) = (\d+);", body[1], re.MULTILINE)
    return [name.lower() for name, number in values if number != "0"]


def quoted(text: str) -> str:
    """The text as a literal in double quotes."""
    return json.dumps(text, ensure_ascii=False)


def render() -> str:
    """The whole file."""
    parts = [HEAD]
    keywords: dict[str, list[str]] = {"TRAINER": [], "PREPARE": []}
    for group, (file, message, skipped) in GROUPS.items():
        proto = (ROOT / f"proto/smolora/v1/{file}.proto").read_text(encoding="utf-8")
        rows = [row for row in fields_of(proto, message) if row[0] not in skipped]
        lines = "".join(f"    Field({quoted(name)}, {quoted(kind)}, {quoted(help_text)}),\n" for name, kind, help_text in rows)
        parts.append(f"\n{group}: tuple[Field, ...] = (\n{lines})\n")
        if (taker := TAKERS.get(group)) is not None:
            keywords[taker] += [f"    {name}: {type_of(kind, taker)}  # {help_text}\n" for name, kind, help_text in rows]
    train = keywords_class("TrainKeywords", "The settings of `train`: PEFT's and TRL's names.", keywords["TRAINER"])
    prepare = keywords_class("PrepareKeywords", "The settings of `prepare`.", keywords["PREPARE"])
    return "".join(parts) + train + prepare


def type_of(kind: str, taker: str) -> str:
    """The annotation of a keyword; those of `prepare` may also be None, for the default."""
    plain = "str" if "|" in kind else TYPES.get(kind, kind)
    return f"{plain} | None" if taker == "PREPARE" else plain


def keywords_class(name: str, line: str, lines: list[str]) -> str:
    """The keywords of a client's method, for type checkers and editors."""
    return f'\n\nclass {name}(TypedDict, total=False):\n    """{line}"""\n\n{"".join(lines)}'


def main() -> None:
    out = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT) / TARGET
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(render(), encoding="utf-8")


if __name__ == "__main__":
    main()
