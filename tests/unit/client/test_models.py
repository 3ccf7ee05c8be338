"""The frozen values hold what the contract's messages hold, under the same names."""

from __future__ import annotations

import dataclasses
import enum
import inspect
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import smolora
from smolora import _fields, _values
from smolora._convert import enum_prefix, event_from, from_message, to_json
from smolora.v1 import common_pb2, datasets_pb2, generation_pb2, jobs_pb2, models_pb2, settings_pb2, system_pb2
from tests.unit.client import fake_daemon

ROOT = Path(__file__).resolve().parents[3]
_FILES = (common_pb2, datasets_pb2, generation_pb2, jobs_pb2, models_pb2, settings_pb2, system_pb2)
_RENAMED = {
    "DatasetDiff": "DiffDatasetsResponse",
    "Status": "GetStatusResponse",
    "Preview": "PreviewDatasetResponse",
    "TokenCount": "CountTokensResponse",
}


def contract(name: str) -> Any:
    """The message or enum of the contract with this name."""
    name = _RENAMED.get(name, name)
    return next(getattr(file, name) for file in _FILES if hasattr(file, name))


VALUES = [cls for _, cls in inspect.getmembers(_values, dataclasses.is_dataclass)]
ENUMS = [
    cls for _, cls in inspect.getmembers(_values, inspect.isclass) if issubclass(cls, enum.StrEnum) and cls is not enum.StrEnum
]


@pytest.mark.parametrize("cls", VALUES, ids=lambda cls: cls.__name__)
def test_a_value_has_exactly_the_fields_of_its_message(cls: Any) -> None:
    names = {field.name for field in dataclasses.fields(cls)}
    if cls is _values.JobEvent:
        names = names - {"kind", "body"} | set(
            field.name for field in jobs_pb2.JobEvent.DESCRIPTOR.oneofs_by_name["body"].fields
        )
    assert names == set(contract(cls.__name__).DESCRIPTOR.fields_by_name)
    assert cls.__dataclass_params__.frozen


@pytest.mark.parametrize("cls", ENUMS, ids=lambda cls: cls.__name__)
def test_an_enum_has_exactly_the_values_of_the_contract(cls: Any) -> None:
    found = contract(cls.__name__)
    prefix = enum_prefix(found.DESCRIPTOR)
    assert [value.name for value in cls] == [name.removeprefix(prefix) for name, number in found.items() if number]


def test_messages_convert_by_name() -> None:
    message = fake_daemon.adapter(
        lora=settings_pb2.LoraSettings(r=4, target_modules=["q_proj"], rank_pattern={"q_proj": 2}),
        base_dtype=common_pb2.DTYPE_BFLOAT16,
    )
    message.create_time.FromDatetime(datetime(2026, 1, 2, tzinfo=UTC))
    adapter = from_message(smolora.Adapter, message)
    assert adapter.create_time == datetime(2026, 1, 2, tzinfo=UTC)
    assert (adapter.origin, adapter.base_dtype, adapter.trainer) == ("train", smolora.Dtype.BFLOAT16, None)
    assert (adapter.lora.r, adapter.lora.target_modules, adapter.lora.rank_pattern) == (4, ("q_proj",), {"q_proj": 2})
    assert from_message(smolora.Adapter, models_pb2.Adapter()).eval_loss_before is None


def test_an_enum_value_of_a_newer_daemon_is_named() -> None:
    with pytest.raises(smolora.Internal, match="sent state 77"):
        from_message(smolora.Job, jobs_pb2.Job(state=77))  # type: ignore[arg-type]


def test_heartbeats_are_no_events() -> None:
    assert event_from(fake_daemon.event(3, heartbeat=jobs_pb2.Heartbeat())) is None


def test_json_is_shaped_as_the_contract() -> None:
    body = jobs_pb2.StateChange(state=jobs_pb2.JOB_STATE_RUNNING, why="its turn")
    shaped = to_json(event_from(fake_daemon.event(1, state=body)))
    assert json.loads(json.dumps(shaped)) == {
        "job_id": "j1",
        "sequence": 1,
        "time": "1970-01-01T00:00:00+00:00",
        "state": {"state": "running", "why": "its turn"},
    }


def test_the_settings_are_those_of_the_contract_and_fresh(tmp_path: Path) -> None:
    for fields, message in (
        (_fields.LORA, settings_pb2.LoraSettings),
        (_fields.TRAINER, settings_pb2.TrainerSettings),
        (_fields.SAMPLING, generation_pb2.Sampling),
    ):
        assert [field.name for field in fields] == list(message.DESCRIPTOR.fields_by_name)
    subprocess.run([sys.executable, str(ROOT / "scripts/fields.py"), str(tmp_path)], check=True)
    path = "clients/python/smolora/_fields.py"
    assert (tmp_path / path).read_text() == (ROOT / path).read_text()


def test_the_blocking_client_is_generated_from_the_asyncio_one() -> None:
    checked = subprocess.run([sys.executable, str(ROOT / "scripts/unasync.py"), "--check"], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_everything_public_is_named_in_order_and_there() -> None:
    assert sorted(smolora.__all__) == smolora.__all__
    assert set(smolora.__all__) <= set(dir(smolora))
    for name in smolora.__all__:
        assert inspect.isclass(getattr(smolora, name))
    public = {cls.__name__ for cls in (*VALUES, *ENUMS)}
    assert public <= set(smolora.__all__)
    with pytest.raises(AttributeError, match="Cliant"):
        _ = smolora.Cliant  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import smolora.v1.jobs_pb2", ["smolora._errors", "smolora._sync", "grpc"]),
        ("import smolora; smolora.NotFound; smolora.Job", ["grpc", "google.protobuf"]),
        ("import smolora; smolora.Client", ["torch", "transformers", "datasets", "pandas", "numpy", "rich"]),
    ],
)
def test_an_import_brings_nothing_heavy(code: str, absent: list[str]) -> None:
    checked = f"{code}\nimport sys\nprint([name for name in {absent} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", checked], capture_output=True, text=True, check=True).stdout == "[]\n"
