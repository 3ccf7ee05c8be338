"""`smolora-client status`: what runs, and what it uses."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING

from smolora import _values as values
from smolora.cli.output import Output, number, plural, size, span, when

if TYPE_CHECKING:
    from smolora._sync.client import Client


def arguments(parser: argparse.ArgumentParser) -> None:
    """It has none."""


def run(args: argparse.Namespace, client: Client, out: Output) -> int:
    """Shows the daemon's status."""
    status = client.status()
    if out.json:
        out.emit(**{field.name: getattr(status, field.name) for field in dataclasses.fields(status)})
        return 0
    out.facts(
        [
            (
                "daemon",
                f"{status.version}, process {status.pid}, {size(status.daemon_rss_bytes)}, since {when(status.start_time)}",
            ),
            ("home", status.home),
            ("socket", status.socket),
            ("engine", _engine(status)),
            ("model", "" if status.resident is None else describe(status.resident)),
            ("memory", "" if status.resident is None else _memory(status, status.resident)),
            ("unloads at", when(status.unload_time)),
            ("adapters", ", ".join(status.adapters)),
            ("running job", status.running_job),
            ("waiting jobs", status.queued_jobs or ""),
            ("generations", status.active_generations or ""),
            ("speed", f"{status.tokens_per_second:.0f} tokens a second" if status.tokens_per_second else ""),
        ]
    )
    return 0


def _engine(status: values.Status) -> str:
    if not status.engine_pid:
        return str(status.engine_state)
    restarts = f", {plural(status.engine_restarts, 'restart')}" if status.engine_restarts else ""
    return f"{status.engine_state}, process {status.engine_pid}, {size(status.engine_rss_bytes)}{restarts}"


def _memory(status: values.Status, model: values.ResidentModel) -> str:
    """What is used now."""
    return (
        f"weights {size(model.memory_bytes or model.weight_bytes)}, caches {size(status.cache_bytes)}, "
        f"prefix cache {size(status.prefix_cache_bytes)}, engine in all {size(status.engine_rss_bytes)}"
    )


def describe(model: values.ResidentModel) -> str:
    """The loaded model on one line."""
    memory = size(model.memory_bytes or model.weight_bytes)
    packed = "" if model.precision is values.Precision.EXACT else f" as {model.precision}"
    return (
        f"{model.name}, {model.architecture}, {number(model.parameters)} parameters, {model.dtype} on {model.device}, "
        f"{memory}{packed}, {model.decoder} decoder, context {number(model.context_length)}{_cache(model)}, "
        f"loaded in {span(model.load_s)}"
    )


def _cache(model: values.ResidentModel) -> str:
    """The format of its KV caches, where it is not that of its weights."""
    return f" ({size(model.cache_token_bytes)} a token in {model.kv_dtype})" if model.kv_dtype else ""
