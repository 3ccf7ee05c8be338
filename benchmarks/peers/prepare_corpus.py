"""The project's own worker code in a process of its own, warm as the peers are: from a JSONL file to a whole dataset."""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.peers import Figures, serve
from smolorad.corpus.prepare import prepare
from smolorad.domain import Note, PhaseProgress, PrepareSpec


class _Host:
    """A host that does not listen."""

    def check(self) -> None:
        """Continues."""

    def emit(self, event: PhaseProgress | Note) -> None:
        """Says nothing."""


def main() -> None:
    """Serves megabytes a second, and the peak of memory."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    given = parser.parse_args()

    def measure() -> Figures:
        with tempfile.TemporaryDirectory() as out:
            begin = time.perf_counter()
            spec = PrepareSpec("bench", upload_id="u", validation=0.0)
            made = prepare(given.data, spec, given.model / "tokenizer.json", Path(out, "dataset"), _Host())
            seconds = time.perf_counter() - begin
        unit = 1 if sys.platform == "darwin" else 1024
        return {
            "mb_s": given.data.stat().st_size / 1e6 / seconds,
            "rows": made.train_rows,
            "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
        }

    serve(measure)


if __name__ == "__main__":
    main()
