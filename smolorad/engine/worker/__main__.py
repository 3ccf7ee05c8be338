"""The weights worker: `python -m smolorad.engine.worker --link-fd N`, spawned by the daemon."""

from __future__ import annotations

import sys

from smolorad.engine.worker.commands import main

if __name__ == "__main__":
    main(sys.argv[1:])
