"""What tokens cost: a dated file, and one of the user's over it."""

from __future__ import annotations

import math
import os
import re
from decimal import Decimal
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from spd_tools.errors import SpdToolsError
from spd_tools.llm.call import Usage
from spd_tools.store.records import Record

OVERRIDE = "SPD_TOOLS_PRICES"
"""Environment variable: a file of the same form, whose models and factors replace ours."""
NANO = 10**9
"""Money is counted in whole nanodollars, rounded up per request, so that sums are exact."""
_OURS = Path(__file__).with_name("prices.json")
_DATED = re.compile(r"-\d{8}$")
_Factor = Field(ge=0, allow_inf_nan=False)


class Price(Record):
    """Of one model, in dollars per million tokens."""

    input: Decimal = _Factor
    output: Decimal = _Factor
    max_prompt_tokens: int | None = Field(default=None, ge=1)
    """Longer prompts cost more than is said here."""
    cache_minimum_tokens: int = Field(default=1024, ge=1)
    """Shorter prefixes are not cached."""


class Prices(Record):
    """The file of prices."""

    date: str
    currency: Literal["USD"] = "USD"
    per_tokens: Literal[1_000_000] = 1_000_000
    batch_factor: Decimal = _Factor
    cache_read_factor: Decimal = _Factor
    cache_write_factor: Decimal = _Factor
    models: dict[str, Price]

    @classmethod
    def load(cls) -> Prices:
        """The prices that came with this version, with those of the file named in ``SPD_TOOLS_PRICES`` over them.

        Raises:
            SpdToolsError: when that file cannot be read or holds something else.
        """
        ours = _read(_OURS)
        override = os.environ.get(OVERRIDE)
        if not override:
            return ours
        theirs = _read(Path(override).expanduser())
        return theirs.model_copy(update={"models": ours.models | theirs.models})

    def of(self, model: str) -> Price:
        """Price of a model; a dated name ("...-20261001") costs what the undated one does.

        Raises:
            SpdToolsError: when it is not known.
        """
        price = self.find(model)
        if price is None:
            known = ", ".join(sorted(self.models))
            raise SpdToolsError(
                f"The price of model {model!r} is not known (known: {known}); add it to a file of the form of "
                f"spd_tools/llm/prices.json and name that in {OVERRIDE}."
            )
        return price

    def find(self, model: str) -> Price | None:
        """Price of a model; None when it is not known."""
        return self.models.get(model) or self.models.get(_DATED.sub("", model))

    def cost(self, price: Price, usage: Usage, *, batch: bool) -> int:
        """Nanodollars of a request, rounded up."""
        inputs = usage.input + usage.cache_read * self.cache_read_factor + usage.cache_write * self.cache_write_factor
        per_million = inputs * price.input + usage.output * price.output
        return math.ceil(per_million * (self.batch_factor if batch else 1) * NANO / self.per_tokens)


def _read(path: Path) -> Prices:
    try:
        return Prices.model_validate_json(path.read_bytes())
    except OSError as error:
        raise SpdToolsError(f"Could not read the prices in {path}: {error.strerror}; correct {OVERRIDE}.") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise SpdToolsError(
            f"The prices in {path} do not fit at {where!r} ({first['msg']}); write it as in spd_tools/llm/prices.json."
        ) from None
