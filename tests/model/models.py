"""All models, and how many of a hundred thousand histories each one gets: many of what is quick and has many orders."""

from __future__ import annotations

from tests.model.lifecycle import LifecycleModel
from tests.model.locks import LocksModel
from tests.model.master import MasterModel
from tests.model.membership import MembershipModel
from tests.model.resources import ResourcesModel
from tests.model.scheduling import SchedulerModel
from tests.model.simulator import Model
from tests.model.speculation import SpeculationModel

MODELS: dict[str, type[Model]] = {
    model.name: model
    for model in (
        SchedulerModel,
        ResourcesModel,
        MembershipModel,
        SpeculationModel,
        LocksModel,
        LifecycleModel,
        MasterModel,
    )
}
SHARES = {
    "scheduler": 25_000,
    "resources": 8_000,
    "membership": 4_000,
    "speculation": 10_000,
    "locks": 30_000,
    "lifecycle": 22_000,
    "master": 1_000,
}


def split(histories: int, only: str | None = None) -> dict[str, int]:
    """Return how many histories each model gets."""
    if only is not None:
        return {only: histories}
    total = sum(SHARES.values())
    return {name: max(1, histories * share // total) for name, share in SHARES.items()}
