"""Harvesting: one pass over data, merged into a store."""

from spd_tools.harvest.pipeline import HarvestOutcome, HarvestRequest, merge_harvest, prepare, run_harvest

__all__ = ["HarvestOutcome", "HarvestRequest", "merge_harvest", "prepare", "run_harvest"]
