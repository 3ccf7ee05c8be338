"""Writes the blocking client from the asyncio one: clients/python/smolora/_async/*.py → _sync/*.py.

The two differ in `async`, `await` and a few names, so one is written and the other generated: they cannot drift apart.

usage: scripts/unasync.py [--check]     (--check writes nothing, and exits 1 where a generated file is not up to date)
"""

from __future__ import annotations

import difflib
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "clients/python/smolora/_async"
TARGET = ROOT / "clients/python/smolora/_sync"

REPLACEMENTS = (
    (r"The asyncio client\.", "The blocking client."),
    (r"\s+`smolora\._sync\.\w+` is generated from this file: .*?\.py\.\s*(?=\"\"\")", ""),
    (r"`(\w+)` \(asyncio\)", r"`\1`"),
    (r"smolora\._transport\.aio", "smolora._transport.threads"),
    (r"smolora\._async", "smolora._sync"),
    (r"\bAsync(?=(Client|JobRun|Loading|Generation|Stream|Transport|Iterator)\b)", ""),
    (r"\bAwaitable\[(T)\]", r"\1"),
    (r"\bAwaitable, ", ""),
    (r"\basync (?=def|for|with)", ""),
    (r"\bawait ", ""),
    (r"__a(iter|next|enter|exit)__", r"__\1__"),
)
NOTICE = "# GENERATED from smolora/_async/{name} by scripts/unasync.py: change that file.\n"


def translate(source: Path) -> str:
    """The blocking twin of a file, formatted."""
    text = source.read_text(encoding="utf-8")
    for pattern, replacement in REPLACEMENTS:
        text = re.sub(pattern, replacement, text)
    target = str(TARGET / source.name)
    for tool in (["check", "--select=I", "--fix", "--quiet"], ["format", "--quiet"]):
        command = [sys.executable, "-m", "ruff", *tool, "--stdin-filename", target, "-"]
        text = subprocess.run(command, input=text, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    return NOTICE.format(name=source.name) + text


def main() -> int:
    check = sys.argv[1:] == ["--check"]
    stale = 0
    for source in sorted(SOURCE.glob("*.py")):
        if source.name == "__init__.py":
            continue
        fresh, target = translate(source), TARGET / source.name
        present = target.read_text(encoding="utf-8") if target.exists() else ""
        if fresh == present:
            continue
        stale += 1
        if check:
            sys.stdout.writelines(difflib.unified_diff(present.splitlines(True), fresh.splitlines(True), str(target), "fresh"))
        else:
            target.write_text(fresh, encoding="utf-8")
            print(f"wrote {target.relative_to(ROOT)}")
    if check and stale:
        print("The blocking client is out of date; run scripts/unasync.py.", file=sys.stderr)
    return int(check and stale > 0)


if __name__ == "__main__":
    sys.exit(main())
