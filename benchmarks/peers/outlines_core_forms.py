"""Peer: outlines-core, in an environment of its own: a JSON schema compiled, and the masks of one answer's tokens."""

from __future__ import annotations

import argparse
import array
import json
import statistics
import time
from pathlib import Path

from benchmarks.peers import Figures, missing, serve


def main() -> None:
    """Serves the figures, or says that outlines-core is not there."""
    parser = argparse.ArgumentParser()
    parser.add_argument("task", type=Path, help="JSON: tokens (id to bytes in hexadecimal), end, schema, ids")
    given = parser.parse_args()
    try:
        from outlines_core import Guide, Index, Vocabulary
        from outlines_core.json_schema import build_regex_from_schema
    except ImportError:
        missing("there is no outlines-core in this environment")
    task = json.loads(given.task.read_text(encoding="utf-8"))
    ids_of: dict[bytes, list[int]] = {}
    for id, spelling in task["tokens"].items():
        ids_of.setdefault(bytes.fromhex(spelling), []).append(int(id))
    mask = array.array("i", bytes(4 * ((len(task["tokens"]) + 1 + 31) // 32)))
    address, length = mask.buffer_info()

    def measure() -> Figures:
        begin = time.perf_counter()
        vocabulary = Vocabulary(task["end"], ids_of)
        built = time.perf_counter()
        guide = Guide(Index(build_regex_from_schema(json.dumps(task["schema"]), " ?"), vocabulary))
        compiled = time.perf_counter()
        times = []
        for token in task["ids"]:
            at = time.perf_counter()
            guide.write_mask_into(address, length, 4)
            guide.advance(token, return_tokens=False)
            times.append(time.perf_counter() - at)
        return {
            "vocabulary_s": built - begin,
            "compile_s": compiled - built,
            "mask_us": 1e6 * statistics.median(times),
            "worst_mask_us": 1e6 * max(times),
        }

    serve(measure)


if __name__ == "__main__":
    main()
