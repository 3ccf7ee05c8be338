"""Messages of the contract from values of the domain, where the names of fields alone do not do it."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp

from smolora.v1 import jobs_pb2, models_pb2
from smolorad.domain import EVENT_KINDS, JobEvent, Model
from smolorad.link.convert import to_message

_KIND_OF = {cls: kind for kind, cls in EVENT_KINDS.items()}


def model_message(model: Model, resident: str = "") -> models_pb2.Model:
    """A model of this home; `resident` is the name of the loaded one."""
    return to_message(models_pb2.Model, model, resident=model.name == resident)


def event_message(event: JobEvent) -> jobs_pb2.JobEvent:
    """An event of a job; its body goes into the field that its class belongs to."""
    message = to_message(jobs_pb2.JobEvent, event)
    body = getattr(message, _KIND_OF[type(event.body)])
    body.SetInParent()
    body.CopyFrom(to_message(type(body), event.body))
    return message


def heartbeat_message(job_id: str, sequence: int) -> jobs_pb2.JobEvent:
    """A heartbeat, with the number of the last event."""
    now = Timestamp()
    now.GetCurrentTime()
    return jobs_pb2.JobEvent(job_id=job_id, sequence=sequence, time=now, heartbeat=jobs_pb2.Heartbeat())
