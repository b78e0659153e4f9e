"""One key space: "h.0.mlp.c_fc:12" <-> flat index, in the decomposition's layer order."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from spd_tools.errors import SpdToolsError
from spd_tools.suggest import did_you_mean


class ComponentKey(NamedTuple):
    """A component's name: its layer and its index there. ``str(key)`` is the form people type."""

    layer: str
    index: int  # pyright: ignore[reportIncompatibleMethodOverride]

    def __str__(self) -> str:
        return f"{self.layer}:{self.index}"

    @classmethod
    def parse(cls, text: str | ComponentKey) -> ComponentKey:
        """Read "layer:index".

        Raises:
            SpdToolsError: when the text has another form.
        """
        if isinstance(text, ComponentKey):
            return text
        layer, colon, index = text.rpartition(":")
        if not (colon and layer and index.isascii() and index.isdigit()):
            raise SpdToolsError(f"{text!r} is no component: write LAYER:INDEX, for example h.0.mlp.c_fc:12.")
        return cls(layer, int(index))


class KeySpace:
    """All components of a decomposition, numbered 0..C-1 layer by layer."""

    def __init__(self, layers: Mapping[str, int]) -> None:
        self.layers = dict(layers)
        self._names = list(self.layers)
        self._starts: list[int] = []
        total = 0
        for n_components in self.layers.values():
            self._starts.append(total)
            total += n_components
        self._total = total

    def __len__(self) -> int:
        return self._total

    def __iter__(self) -> Iterator[ComponentKey]:
        for layer, n_components in self.layers.items():
            for index in range(n_components):
                yield ComponentKey(layer, index)

    def start(self, layer: str) -> int:
        """Flat index of the layer's first component."""
        if layer not in self.layers:
            raise SpdToolsError(f"There is no layer {layer!r}; {did_you_mean(layer, self._names, 'layers')}")
        return self._starts[self._names.index(layer)]

    def span(self, layer: str) -> slice:
        """Flat indices of the layer's components."""
        start = self.start(layer)
        return slice(start, start + self.layers[layer])

    def flat(self, key: str | ComponentKey) -> int:
        """Flat index of a key.

        Raises:
            SpdToolsError: for a malformed key, an unknown layer or an index outside the layer.
        """
        layer, index = ComponentKey.parse(key)
        start = self.start(layer)
        if index >= self.layers[layer]:
            raise SpdToolsError(
                f"Layer {layer} has components 0 to {self.layers[layer] - 1}; there is no component {layer}:{index}."
            )
        return start + index

    def key(self, flat: int) -> ComponentKey:
        """Key of a flat index (0 <= flat < len)."""
        if not 0 <= flat < self._total:
            raise IndexError(f"flat component index {flat} outside 0..{self._total - 1}")
        # Layers without components share their start with the next one: bisect_right lands on the last of them.
        at = bisect.bisect_right(self._starts, flat) - 1
        return ComponentKey(self._names[at], flat - self._starts[at])
