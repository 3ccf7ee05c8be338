"""One word for one thing: the domain, the contract, its comments and both tables of errors agree."""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from google.protobuf import descriptor_pb2 as pb
from google.protobuf.message import Message

import smolora._errors as client_errors
from smolora.v1 import common_pb2, datasets_pb2, errors_pb2, generation_pb2, jobs_pb2, models_pb2, settings_pb2, training_pb2
from smolorad import domain, errors
from smolorad.link.convert import enum_prefix
from smolorad.link.v1 import link_pb2
from tests.house.descriptors import elements

_MODULES = (common_pb2, datasets_pb2, generation_pb2, jobs_pb2, models_pb2, settings_pb2, training_pb2, link_pb2)
_REQUESTS = {
    "DatasetDiff": "DiffDatasetsResponse",
    "GenerateSpec": "GenerateRequest",
    "ImportSpec": "ImportModelRequest",
    "MergeSpec": "MergeRequest",
    "PrepareSpec": "PrepareDatasetRequest",
    "Preview": "PreviewDatasetResponse",
    "TrainSpec": "TrainRequest",
}
# Fields of one side alone, and why.
_ONLY_IN_DOMAIN = {
    "Job.spec",  # stored, not sent: the caller asked for it
    "JobError.violations",  # sent as the BadRequest of the status that ends the job's stream
}
_ONLY_IN_CONTRACT = {
    "Job.queue_position",
    "Job.waiting_for",  # counted when it is asked for
    "Model.resident",  # the same
    "TrainRequest.request_id",  # of the request, not of the work
    "MergeRequest.request_id",
    "ImportModelRequest.request_id",
    "PrepareDatasetRequest.request_id",
}
_NOT_IN_CONTRACT = {"Bounds", "Placing", "Ref"}  # how the domain speaks about its own values


def _values() -> Iterator[tuple[str, type[Any]]]:
    for name in domain.__all__:
        value = getattr(domain, name)
        if dataclasses.is_dataclass(value) and isinstance(value, type) and name not in _NOT_IN_CONTRACT:
            yield name, value


def _descriptor(name: str, kind: str) -> Any:
    wanted = _REQUESTS.get(name, name)
    for module in _MODULES:
        found = getattr(module.DESCRIPTOR, kind).get(wanted)
        if found is not None:
            return found
    raise AssertionError(f"the contract has no {wanted}")


def _place(field: Any) -> str:
    """The field's name; for one of several that exclude each other, theirs."""
    union = field.containing_oneof
    return union.name if union is not None and len(union.fields) > 1 else field.name


@pytest.mark.parametrize(("name", "value"), list(_values()))
def test_a_value_has_the_contract_s_fields(name: str, value: type[Any]) -> None:
    descriptor = _descriptor(name, "message_types_by_name")
    ours = {f.name for f in dataclasses.fields(value)}
    theirs = {_place(field) for field in descriptor.fields}
    assert {f"{name}.{field}" for field in ours - theirs} <= _ONLY_IN_DOMAIN
    assert {f"{descriptor.name}.{field}" for field in theirs - ours} <= _ONLY_IN_CONTRACT


def test_every_kind_of_event_is_known_on_both_sides() -> None:
    theirs = {field.name for field in jobs_pb2.JobEvent.DESCRIPTOR.oneofs_by_name["body"].fields}
    assert domain.EVENT_KINDS.keys() == theirs - {"heartbeat"}, "a heartbeat is of the stream, not of the job"


@pytest.mark.parametrize("name", [name for name in domain.__all__ if isinstance(getattr(domain, name), enum.EnumMeta)])
def test_a_choice_has_the_contract_s_values(name: str) -> None:
    descriptor = _descriptor(name, "enum_types_by_name")
    theirs = [value.name.removeprefix(enum_prefix(descriptor)) for value in descriptor.values if value.number]
    assert [member.name for member in getattr(domain, name)] == theirs


def test_every_reason_has_its_class_on_both_sides() -> None:
    descriptor = errors_pb2.DESCRIPTOR.enum_types_by_name["ErrorReason"]
    reasons = {value.name.removeprefix("ERROR_REASON_") for value in descriptor.values if value.number}
    for reason in reasons:
        assert errors.by_reason(reason).reason == reason
        assert client_errors.by_reason(reason).reason == reason
        assert errors.by_reason(reason).__name__ == client_errors.by_reason(reason).__name__
    ours = {cls.reason for cls in _family(errors.SmoloraError)}
    assert ours == reasons, "the daemon has no word that the contract does not know"


def _family(cls: type[errors.SmoloraError]) -> Iterator[type[errors.SmoloraError]]:
    for sub in cls.__subclasses__():
        yield sub
        yield from _family(sub)


# --- what the comments say, and what the domain does -------------------------------------------------------------------------

_COMMENTED: Mapping[type[Message], type[Any]] = {
    settings_pb2.LoraSettings: domain.LoraSettings,
    settings_pb2.TrainerSettings: domain.TrainerSettings,
    generation_pb2.Sampling: domain.Sampling,
    datasets_pb2.PrepareDatasetRequest: domain.PrepareSpec,
    datasets_pb2.HubDataset: domain.HubDataset,
}
_NUMBER = r"(-?\d[\d,]*(?:\.\d+)?(?:e-?\d+)?(?:\^\d+(?:-1)?)?)"
# The default depends on the model, so the domain leaves it empty.
_BY_MODEL = {"target_modules"}


def commented_default(comment: str) -> str | None:
    """`8` in `Rank; 1 to 1024. Default 8.`; None where the comment tells no value, but a rule (`Default: drawn`)."""
    found = re.search(r"\bDefault (.+?)(?:;|\.(?:\s|$))", comment)
    return found.group(1).strip("`") if found else None


def commented_bounds(comment: str) -> dict[str, float]:
    """`{"least": 0, "below": 1}` in `Share dropped; 0 to below 1.`"""
    comment = re.sub(r"\bDefault\b.*", "", comment)
    if "otherwise" in comment:  # `0 is greedy; otherwise 0.01 to 10`: the least value is the special one
        comment = re.sub(rf"{_NUMBER} to", "up to", comment)
        comment = re.sub(rf"up to {_NUMBER}", r"at most \1", comment)
    limits: dict[str, float] = {}
    if found := re.search(rf"{_NUMBER}(?: \(off\))? to (below )?(?:{_NUMBER})?", comment):
        limits["least"] = _number(found.group(1))
        if found.group(3):
            limits["below" if found.group(2) else "most"] = _number(found.group(3))
    for word, key in (("above", "above"), ("at most", "most"), ("at least", "least")):
        if found := re.search(rf"\b{word} {_NUMBER}", comment, re.IGNORECASE):
            limits[key] = _number(found.group(1))
    return limits


def _number(text: str) -> float:
    text = text.replace(",", "")
    if "^" in text:
        base, _, power = text.partition("^")
        return int(base) ** int(power.removesuffix("-1")) - (1 if power.endswith("-1") else 0)
    return float(text)


def _comments(protos: pb.FileDescriptorSet, message: type[Message]) -> dict[str, str]:
    prefix = f"{message.DESCRIPTOR.name}."
    return {
        element.proto.name: element.comment
        for file in protos.file
        if file.name == message.DESCRIPTOR.file.name
        for element in elements(file)
        if element.name.startswith(prefix)
    }


def _same(said: str, default: Any) -> bool:
    if default is None or default == () or default == {}:
        return said in ("none", "all")
    if isinstance(default, bool):
        return said == str(default).lower()
    if isinstance(default, int | float):
        return float(said) == default
    return said == str(default)


@pytest.mark.parametrize("message", _COMMENTED, ids=lambda message: message.DESCRIPTOR.name)
def test_the_comments_repeat_the_domain_s_defaults(protos: pb.FileDescriptorSet, message: type[Message]) -> None:
    comments = _comments(protos, message)
    told = 0
    for f in dataclasses.fields(_COMMENTED[message]):
        if f.name in _BY_MODEL or (f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING):
            continue
        default = f.default if f.default is not dataclasses.MISSING else f.default_factory()  # type: ignore[misc]
        said = commented_default(comments[f.name])
        if said is None:
            rule = isinstance(default, enum.Enum) and f"Default: {default.value}." in comments[f.name]
            assert rule or default in (None, (), {}, ""), f"{f.name}: the comment does not tell the default {default!r}"
        else:
            told += 1
            assert _same(said, default), f"{f.name}: the comment says {said}, the domain {default!r}"
    assert told, "no comment was understood"


@pytest.mark.parametrize("message", _COMMENTED, ids=lambda message: message.DESCRIPTOR.name)
def test_the_comments_tell_the_domain_s_bounds(protos: pb.FileDescriptorSet, message: type[Message]) -> None:
    comments = _comments(protos, message)
    for f in dataclasses.fields(_COMMENTED[message]):
        bounds = f.metadata.get("bounds")
        said = commented_bounds(comments[f.name])
        if said and bounds is not None:
            ours = {key: limit for key in said if (limit := getattr(bounds, key)) is not None}
            assert ours == said, f"{f.name}: the comment says {said}, the domain {bounds}"
        for choice in f.metadata.get("choices", ()):
            assert f"`{choice}`" in comments[f.name], f"{f.name}: the comment does not name {choice}"


@pytest.mark.parametrize(
    ("comment", "default", "bounds"),
    [
        ("Rank of the update; 1 to 1024. Default 8.", "8", {"least": 1, "most": 1024}),
        ("Share dropped; 0 to below 1. Default 0.1.", "0.1", {"least": 0, "below": 1}),
        ("Peak learning rate; above 0, at most 10. Default 2e-4.", "2e-4", {"above": 0, "most": 10}),
        ("0 is greedy; otherwise 0.01 to 10. Default 1.0.", "1.0", {"most": 10}),
        ("Steps; 1 to 10,000,000. Default 500; not with num_train_epochs.", "500", {"least": 1, "most": 10_000_000}),
        ("Repeatable; 0 to 2^63-1. Default: drawn.", None, {"least": 0, "most": 2**63 - 1}),
        ("Off the score; -2 to 2. Default 0.", "0", {"least": -2, "most": 2}),
        ("`none` or `all`. Default `none`.", "none", {}),
    ],
)
def test_the_comments_are_read_as_a_person_reads_them(comment: str, default: str | None, bounds: dict[str, float]) -> None:
    assert commented_default(comment) == default
    assert commented_bounds(comment) == bounds
