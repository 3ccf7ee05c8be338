"""The script of a user who came from the original: one import line is another, the rest is as it was. See original.py."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.peers.original_script import INFERENCES, add_arguments, done
from smolora import SmoLoRA


def main() -> None:
    """The whole job; reports when each phase is done."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    given = parser.parse_args()
    trainer = SmoLoRA(given.model, given.data, output_dir=given.output, max_steps=given.steps)
    done("initialisation")
    trainer.train()
    done("training")
    trainer.save()
    done("saving")
    trainer.load_model(Path(given.output) / "final_merged")
    done("loading")
    for _ in range(INFERENCES):
        trainer.inference(given.prompt, max_new_tokens=given.new_tokens, do_sample=False)
    done("inference")
    trainer.close()


if __name__ == "__main__":
    main()
