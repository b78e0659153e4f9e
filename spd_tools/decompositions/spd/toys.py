"""An SPD run on a toy target: it reads feature vectors, so it can be run and plotted but not harvested."""

from __future__ import annotations

import torch
from torch import Tensor

from spd_tools.decompositions.base import TrainingData
from spd_tools.decompositions.spd.decomposition import SpdDecomposition
from spd_tools.errors import SpdToolsError


class ToyDecomposition(SpdDecomposition):
    """As SpdDecomposition with features [batch, n_features] in place of tokens; outputs are in ``logits``.

    ``vocab_size`` is the width of the output. Whatever concerns rows of tokens is refused.
    """

    def _no_tokens(self) -> SpdToolsError:
        return SpdToolsError(
            f"{self.run_id} decomposes the toy {self.target.architecture}, which reads no tokens: it can be loaded, "
            "run on features and plotted, but there is nothing to harvest."
        )

    @property
    def max_seq_len(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Toys have no rows of tokens."""
        raise self._no_tokens()

    @property
    def training_data(self) -> TrainingData | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Toys have no data set."""
        raise self._no_tokens()

    def _positions(self, tokens: Tensor) -> torch.Size:
        return tokens.shape[:-1]

    def _checked(self, tokens: Tensor) -> Tensor:
        if not tokens.is_floating_point():
            raise self._no_tokens()
        if tokens.ndim != 2 or tokens.shape[1] != self.vocab_size:
            raise SpdToolsError(
                f"{self.run_id} reads features [batch, {self.vocab_size}]; these have the shape {list(tokens.shape)}."
            )
        return tokens.to(self.device, torch.float32)
