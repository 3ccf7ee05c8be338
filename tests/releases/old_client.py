"""The main job by a released client's Python API: run with its wheel on the path, `python old_client.py SOCKET FOLDER`.

It uses nothing that came after 0.1.0, asserts nothing, and writes what it got as one JSON object.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import smolora

GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 12}
PROMPT = "In the beginning"
SCHEMA = {"type": "object", "properties": {"yes": {"type": "boolean"}}, "required": ["yes"], "additionalProperties": False}


def look_around(client: smolora.Client) -> dict[str, Any]:
    """The lists, the loaded model, and an error."""
    stages = [str(one.stage) for one in client.load("tiny", dtype="float32")]
    try:
        client.generate(PROMPT, adapter="poets").text()
    except smolora.NotFound as error:
        missing = str(error)
    resident = client.status().resident
    return {
        "stages": stages,
        "resident": None if resident is None else resident.name,
        "datasets": [one.name for one in client.datasets()],
        "adapters": [f"{one.name}@{one.revision}" for one in client.adapters("poet")],
        "models": [one.name for one in client.models()],
        "jobs": len(client.jobs()),
        "missing": missing,
    }


def answer(client: smolora.Client) -> dict[str, Any]:
    """Answers of the base and of an adapter, streamed, in a form, to a conversation; and tokens."""
    whole = client.generate(PROMPT, adapter="poet", **GREEDY)
    streamed = "".join(client.generate(PROMPT, adapter="poet", **GREEDY))
    form = client.generate(PROMPT, json_schema=SCHEMA, temperature=0, max_tokens=64)
    talk = client.generate(
        messages=[{"role": "user", "content": "What is 2 and 2?"}], adapter="poet@2", logprobs=True, **GREEDY
    )
    count = client.count_tokens(PROMPT)
    return {
        "whole": whole.text(),
        "streamed": streamed,
        "base": client.generate(PROMPT, **GREEDY).text(),
        "form": json.loads(form.text()),
        "talk": talk.text(),
        "logprobs": len(talk.logprobs),
        "talk_tokens": len(talk.outcome.token_ids) if talk.outcome else 0,
        "count": count.tokens,
        "decoded": client.decode_tokens(count.token_ids),
    }


def make(client: smolora.Client, folder: Path) -> dict[str, Any]:
    """A dataset, an adapter, a model; one adapter out and in again."""
    rows = folder / "fresh.jsonl"
    rows.write_text("".join(json.dumps({"text": f"Row {number} of a fresh file."}) + "\n" for number in range(20)))
    dataset = client.prepare("fresh", rows, validation=0.1).result()
    preview = client.preview("fresh", limit=2)
    run = client.train("fresh", "young", max_steps=4, logging_steps=1, r=2, learning_rate=1e-2)
    events = list(run)
    adapter = run.result()
    exported = client.export_adapter("young", folder / "young")
    imported = client.import_adapter(exported, "returned")
    merged = client.merge("young", "young-merged").result()
    return {
        "rows": (dataset.train_rows, dataset.validation_rows),
        "preview": preview.total_rows,
        "spans": ["".join(span.text for span in row.spans) for row in preview.shown],
        "sequences": [one.sequence for one in events],
        "steps": [one.body.step for one in events if isinstance(one.body, smolora.TrainProgress)],
        "adapter": (f"{adapter.name}@{adapter.revision}", adapter.steps),
        "same": client.generate(PROMPT, adapter="returned", **GREEDY).text()
        == client.generate(PROMPT, adapter="young", **GREEDY).text(),
        "imported": imported.base_model,
        "merged": merged.merge_proof is not None and merged.merge_proof.max_logit_difference <= merged.merge_proof.bound,
        "job": str(client.job(run.job_id).state),
        "removed": client.delete_adapter("returned"),
    }


async def at_once(socket: str) -> list[str]:
    """Two answers together, by the asyncio client."""
    async with smolora.AsyncClient(socket) as client:
        asked = [client.generate(PROMPT, adapter=adapter, **GREEDY) for adapter in ("", "poet")]
        return list(await asyncio.gather(*(one.text() for one in asked)))


def main() -> None:
    """Does all of it."""
    socket, folder = sys.argv[1], Path(sys.argv[2])
    with smolora.Client(socket, timeout=60.0) as client:
        got = {"from": smolora.__file__, "look": look_around(client), "answer": answer(client), "made": make(client, folder)}
    print(json.dumps(got | {"at_once": asyncio.run(at_once(socket))}))


if __name__ == "__main__":
    main()
