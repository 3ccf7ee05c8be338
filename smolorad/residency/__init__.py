"""Which base model is loaded: found, loaded, kept while it is used, and brought back when its engine dies."""

from smolorad.portable import STARTER, STARTER_ID
from smolorad.residency.lease import ModelLease
from smolorad.residency.manager import EngineState, Residency
from smolorad.residency.requests import LoadRequest
from smolorad.residency.resolver import Base, Resolver, no_progress

__all__ = ["STARTER", "STARTER_ID", "Base", "EngineState", "LoadRequest", "ModelLease", "Residency", "Resolver", "no_progress"]
