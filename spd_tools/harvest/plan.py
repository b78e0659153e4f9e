"""What a harvest will do, fixed before the first batch: plan.json in the harvest's folder.

Ranks that are started separately make the same plan and so find each other; the merge needs nothing else.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from spd_tools.decompositions.base import Decomposition
from spd_tools.errors import SpdToolsError
from spd_tools.files import write_bytes, write_json
from spd_tools.settings import Settings
from spd_tools.store.schema import DataInfo, DecompositionInfo, HarvestConfig

_MAX_TOKENS = 1 << 30  # output mass is counted in units of 2**-33 in 64 bits


class HarvestPlan(BaseModel):
    """Decomposition, data and configuration of one harvest."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    decomposition: DecompositionInfo
    data: DataInfo
    config: HarvestConfig

    @property
    def harvest_id(self) -> str:
        """Short hash of everything above but the reference, which is only where the run was found."""
        content = self.model_dump(mode="json", exclude={"decomposition": {"reference"}, "data": {"source"}})
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def folder(self) -> Path:
        """The harvest's folder."""
        return Settings.from_environment().harvest(self.decomposition.run_id, self.harvest_id)

    @property
    def n_components(self) -> int:
        """Components of all layers."""
        return sum(n for _, n in self.decomposition.layers)

    def save(self, tokenizer: bytes | None = None) -> None:
        """Write plan.json, and the tokenizer.json that the store shows text with, where there is none yet."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if tokenizer is not None and not (self.folder / "tokenizer.json").exists():
            write_bytes(self.folder / "tokenizer.json", tokenizer)
        if not (self.folder / "plan.json").exists():
            write_json(self.folder / "plan.json", self.model_dump(mode="json"))

    @classmethod
    def load(cls, folder: Path) -> HarvestPlan:
        """Read plan.json.

        Raises:
            SpdToolsError: when it is missing or damaged.
        """
        try:
            return cls.model_validate_json((folder / "plan.json").read_bytes())
        except (OSError, ValidationError) as error:
            raise SpdToolsError(
                f"{folder} has no readable plan.json; remove it with `spd-tools runs remove` and harvest again."
            ) from error


def make_plan(decomposition: Decomposition, data: DataInfo, config: HarvestConfig) -> HarvestPlan:
    """Describe a harvest.

    Raises:
        SpdToolsError: when it asks for more than one harvest can count, or for an impossible configuration.
    """
    if config.n_batches * config.batch_size * config.seq_len > _MAX_TOKENS:
        raise SpdToolsError("One harvest counts at most 2^30 tokens; lower --n-batches.")
    if not 0 <= config.threshold < 1 and decomposition.gating_kind == "causal_importance":
        raise SpdToolsError(
            "Causal importances are never negative nor above 1: "
            f"--threshold is from 0 to below 1, not {config.threshold}."
        )
    if config.log_share < 0 or min(config.n_uniform, config.n_top, config.window) < 0:
        raise SpdToolsError("The numbers of examples, their --window and --log-tokens cannot be negative.")
    if not 0 < config.p_min <= 1:
        raise SpdToolsError(f"--p-min is a probability above 0 and at most 1, not {config.p_min}.")
    return HarvestPlan(
        decomposition=DecompositionInfo(
            run_id=decomposition.run_id,
            reference=decomposition.reference,
            fingerprint=decomposition.fingerprint,
            layers=list(decomposition.layers.items()),
            vocab_size=decomposition.vocab_size,
            gating_kind=decomposition.gating_kind,
            ranking_kind=decomposition.ranking_kind,
            kinds=list(decomposition.kinds),
        ),
        data=data,
        config=config,
    )
