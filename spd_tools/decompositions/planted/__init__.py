"""A decomposition with known answers: each component follows a rule that is written down."""

from spd_tools.decompositions.planted.decomposition import PlantedDecomposition, load_planted
from spd_tools.decompositions.planted.rules import Rule

__all__ = ["PlantedDecomposition", "Rule", "load_planted"]
