"""Runs job files one after another, each as `smolorad train-job` runs it: importing takes longer than they do."""

from __future__ import annotations

import os
import sys

from smolorad.engine.train_job import main

if __name__ == "__main__":
    sys.exit(max(main([path], os.environ) for path in sys.argv[1:]))
