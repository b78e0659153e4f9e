"""What an evaluation has to do, in order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from spd_tools.evaluate.trials import ScoreName
from spd_tools.keys import ComponentKey, KeySpace


class Works:
    """Pairs of component and score, one after the other; few bytes for each."""

    def __init__(
        self,
        keys: KeySpace,
        components: NDArray[np.int64],
        scores: Sequence[ScoreName],
        only: NDArray[np.int64] | None = None,
    ) -> None:
        """``only``: numbers of the pairs that count; None: all."""
        self._keys = keys
        self._components = components
        self._scores = scores
        self._numbers = np.arange(len(components) * len(scores)) if only is None else only

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[tuple[ComponentKey, ScoreName]]:
        for number in self._numbers:
            component, score = divmod(int(number), len(self._scores))
            yield self._keys.key(int(self._components[component])), self._scores[score]

    def only(self, chosen: NDArray[np.bool_]) -> Works:
        """Some of them."""
        return Works(self._keys, self._components, self._scores, self._numbers[chosen])
