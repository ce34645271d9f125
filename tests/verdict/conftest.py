"""The evaluation room's small data set and places."""

from tests.evaluation.conftest import dataset, places, workspace

__all__ = ["dataset", "places", "workspace"]
