"""Domain values to messages and back, for every pair that the contract has."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from smolora.v1 import common_pb2, datasets_pb2, generation_pb2, jobs_pb2, models_pb2, settings_pb2, training_pb2
from smolorad import domain
from smolorad.errors import InvalidRequest
from smolorad.link.convert import from_message, to_message
from smolorad.link.v1 import link_pb2

PAIRS: list[tuple[type, type[Message]]] = [
    (domain.Adapter, models_pb2.Adapter),
    (domain.ChatMessage, generation_pb2.ChatMessage),
    (domain.Checkpoint, jobs_pb2.Checkpoint),
    (domain.Dataset, datasets_pb2.Dataset),
    (domain.DatasetReport, datasets_pb2.DatasetReport),
    (domain.Estimate, jobs_pb2.Estimate),
    (domain.DatasetDiff, datasets_pb2.DiffDatasetsResponse),
    (domain.Evaluation, jobs_pb2.Evaluation),
    (domain.Fetched, link_pb2.Fetched),
    (domain.Finding, datasets_pb2.Finding),
    (domain.GenerateOutcome, generation_pb2.GenerateOutcome),
    (domain.GenerateSpec, generation_pb2.GenerateRequest),
    (domain.HubDataset, datasets_pb2.HubDataset),
    (domain.ImportSpec, models_pb2.ImportModelRequest),
    (domain.JobError, jobs_pb2.JobError),
    (domain.LengthBin, datasets_pb2.LengthBin),
    (domain.LoadChoice, models_pb2.LoadChoice),
    (domain.LoadEstimate, models_pb2.LoadEstimate),
    (domain.LoadProgress, models_pb2.LoadProgress),
    (domain.LoraSettings, settings_pb2.LoraSettings),
    (domain.Merged, link_pb2.Merged),
    (domain.MergeProof, models_pb2.MergeProof),
    (domain.MergeSpec, training_pb2.MergeRequest),
    (domain.Model, models_pb2.Model),
    (domain.ModelFacts, link_pb2.ModelFacts),
    (domain.Note, jobs_pb2.Note),
    (domain.PhaseProgress, jobs_pb2.PhaseProgress),
    (domain.Prepared, link_pb2.Prepared),
    (domain.PrepareSpec, datasets_pb2.PrepareDatasetRequest),
    (domain.Preview, datasets_pb2.PreviewDatasetResponse),
    (domain.PreviewRow, datasets_pb2.PreviewRow),
    (domain.ResidentModel, models_pb2.ResidentModel),
    (domain.ResponseFormat, generation_pb2.ResponseFormat),
    (domain.RowProblem, datasets_pb2.RowProblem),
    (domain.RowSpan, datasets_pb2.RowSpan),
    (domain.Sample, jobs_pb2.Sample),
    (domain.Sampling, generation_pb2.Sampling),
    (domain.StateChange, jobs_pb2.StateChange),
    (domain.Timings, generation_pb2.Timings),
    (domain.TokenLogprob, generation_pb2.TokenLogprob),
    (domain.TopLogprob, generation_pb2.TopLogprob),
    (domain.Trained, link_pb2.Trained),
    (domain.TrainerSettings, settings_pb2.TrainerSettings),
    (domain.TrainProgress, jobs_pb2.TrainProgress),
    (domain.TrainSpec, training_pb2.TrainRequest),
    (domain.Usage, common_pb2.Usage),
]

_INT32 = st.integers(-(2**31), 2**31 - 1)
_TIMES = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1)).map(lambda when: when.replace(tzinfo=UTC))
_SPANS = st.timedeltas(timedelta(0), timedelta(days=10))
st.register_type_strategy(int, _INT32)
st.register_type_strategy(float, st.floats(allow_nan=False))
st.register_type_strategy(datetime, _TIMES)
st.register_type_strategy(timedelta, _SPANS)


@pytest.mark.parametrize(("cls", "message"), PAIRS, ids=[cls.__name__ for cls, _ in PAIRS])
@given(data=st.data())
def test_a_value_survives_the_way_there_and_back(cls: type, message: type[Message], data: st.DataObject) -> None:
    value = data.draw(st.from_type(cls))
    sent = to_message(message, value)
    arrived = from_message(cls, message.FromString(sent.SerializeToString()))
    assert to_message(message, arrived) == to_message(message, from_message(cls, to_message(message, arrived)))
    for field in dataclasses.fields(cls):
        if field.name not in message.DESCRIPTOR.fields_by_name:  # tests/house knows which, and why
            continue
        before, after = getattr(value, field.name), getattr(arrived, field.name)
        if not before and before != after:  # zero and unset are one, where the contract says so
            default = field.default if field.default is not dataclasses.MISSING else None
            factory = field.default_factory
            assert after == (default if factory is dataclasses.MISSING else factory()) or not after
        elif not dataclasses.is_dataclass(before):
            assert before == after


def test_every_value_of_the_domain_is_in_the_list() -> None:
    kept_out = {"Bounds", "Job", "JobEvent", "Placing", "Ref"}  # made by hand, or not sent
    classes = {name for name in domain.__all__ if dataclasses.is_dataclass(getattr(domain, name))}
    assert classes - kept_out == {cls.__name__ for cls, _ in PAIRS}


def test_unset_fields_take_the_defaults() -> None:
    assert from_message(domain.Sampling, generation_pb2.Sampling()) == domain.Sampling()
    assert from_message(domain.TrainSpec, training_pb2.TrainRequest(dataset="d", adapter="a")) == domain.TrainSpec("d", "a")
    greedy = from_message(domain.Sampling, generation_pb2.Sampling(temperature=0, seed=0))
    assert (greedy.temperature, greedy.seed, greedy.top_k) == (0.0, 0, 0)
    assert from_message(domain.PrepareSpec, datasets_pb2.PrepareDatasetRequest(name="n")).text_field == "text"
    assert from_message(domain.PrepareSpec, datasets_pb2.PrepareDatasetRequest(name="n", validation=0)).validation == 0.0


def test_an_enum_number_of_a_later_contract_is_refused() -> None:
    request = datasets_pb2.PrepareDatasetRequest.FromString(
        datasets_pb2.PrepareDatasetRequest(name="n").SerializeToString() + bytes([4 << 3, 99])
    )
    with pytest.raises(InvalidRequest, match="99 is not a value of FileType"):
        from_message(domain.PrepareSpec, request)
