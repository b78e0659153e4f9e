"""What calls to a language model would cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

if TYPE_CHECKING:
    from spd_tools.llm import Estimate


def estimate_text(estimate: Estimate, calls: str) -> Text:
    """A few lines; ``calls``: what the number of calls is called."""
    how = "as the API counts them" if estimate.counted else "at most: without a key, a byte is taken for a token"
    lines = [
        f"{estimate.n_calls:,} {calls}, by a sample of {estimate.n_sampled}, at prices of {estimate.prices_of}",
        f"input   {estimate.input_tokens:,} tokens ({how})",
        f"output  {estimate.output_tokens_at_most:,} tokens at most",
        f"cost    ${estimate.dollars_at_most:,.4f} at most",
    ]
    if estimate.dollars is not None:
        lines.append(f"        ${estimate.dollars:,.4f} if answers are as long as earlier ones")
    return Text("\n".join(lines))
