"""What every door calls to experiment: an experiment is run and its result becomes evidence."""

from spd_tools.investigate.investigation import Investigation
from spd_tools.investigate.multiplicity import corrected_p_values

__all__ = ["Investigation", "corrected_p_values"]
