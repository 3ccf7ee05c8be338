"""Which base model is resident: found, loaded, kept while somebody asks for it, and brought back when its engine dies."""

from smolorad.portable import STARTER, STARTER_ID
from smolorad.residency.manager import EngineState, LoadRequest, ModelLease, Residency
from smolorad.residency.resolver import Base, Resolver

__all__ = ["STARTER", "STARTER_ID", "Base", "EngineState", "LoadRequest", "ModelLease", "Residency", "Resolver"]
