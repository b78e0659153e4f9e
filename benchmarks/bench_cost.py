"""`make bench-cost`: tokens and dollars of labelling one component and scoring the label by detection and fuzzing.

    python -m benchmarks.bench_cost [--run RUN --data SOURCE]

Real prompts: those that `interpret` and `evaluate` would send about components of a harvest (default: of `planted`).
Nothing is sent. Input tokens: counted by the API where ANTHROPIC_API_KEY is set, else one for every 3 characters of
system prompt, prompt and schema, which is more than English text has. Output tokens cannot be measured without asking:
answers as long as prompts and schemas ask for, by the same rule, and an allowance for thinking. Dollars: by the prices
of the ledger, nothing cached.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from benchmarks.reporting import fail, report
from spd_tools.evaluate.judges import judge_call
from spd_tools.evaluate.plan import N_TRIALS
from spd_tools.evaluate.splits import Split
from spd_tools.evaluate.trials import ScoreName, make_trials
from spd_tools.harvest import HarvestRequest, run_harvest
from spd_tools.interpret import DEFAULT_MODEL, PROMPTS, Interpretation, Labeller, PromptName, top_tokens_label
from spd_tools.keys import ComponentKey
from spd_tools.llm import Call, Prices, Usage, estimate
from spd_tools.llm.api import has_key
from spd_tools.llm.call import schema_json
from spd_tools.store.harvest import Harvest

CHARACTERS_PER_TOKEN = 3.0
LABEL_THINKING, JUDGE_THINKING = 300, 100
"""Tokens allowed for, per answer."""
MOST_INPUT, MOST_OUTPUT, MOST_DOLLARS = 20_000, 2_000, 0.003
"""Of one component."""
ANSWER = Interpretation(
    reasoning="Every marked token names a hand tool. " * 3,
    input_view="The component fires on nouns that name a hand tool, such as saw, drill, knife, ladder and hammer, most "
    "of all after a colour or a size, and on no other nouns in the same places.",
    output_view="It tends to be followed by a verb that has the tool as its subject, such as falls or rests.",
    label="nouns for hand tools, mostly after a colour",
    verdict="clear",
    confidence=0.9,
)
"""As long as an answer is asked to be."""
CHOICE = {"numbers": [1, 3, 5, 7, 8, 9, 10]}
JUDGED: tuple[ScoreName, ...] = ("detection", "fuzzing")


@dataclass(frozen=True)
class Cost:
    """Of some calls."""

    input: int
    output: int

    @property
    def dollars(self) -> float:
        prices = Prices.load()
        usage = Usage(input=self.input, output=self.output, cache_read=0, cache_write=0)
        return prices.cost(prices.of(DEFAULT_MODEL), usage, batch=False) / 10**9

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.input + other.input, self.output + other.output)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="planted")
    parser.add_argument("--data")
    parser.add_argument("--n-batches", type=int, default=64, help="of 32 rows; only with --run")
    parser.add_argument("--components", type=int, default=60, help="at most; spread over the densities")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SPD_OUT_DIR"] = folder
        given = {"data": args.data} if args.data else {}
        n_batches = None if args.run == "planted" else args.n_batches
        request = HarvestRequest(run=args.run, n_batches=n_batches, batch_size=32, **given)
        measure(Harvest.open(run_harvest(request).folder), args.components)


def measure(harvest: Harvest, n_components: int) -> None:
    split = Split(harvest)
    keys = spread(harvest, n_components)
    found = {prompt: costs(split, keys, prompt) for prompt in PROMPTS}
    n = len(found["detects"])
    if n == 0:
        fail("no component has material for a label and its scores")
    how = "counted by the API" if has_key() else f"a token per {CHARACTERS_PER_TOKEN:g} characters"
    rows = [("components", f"{n} with material for all scores, of {len(keys)}"), ("input tokens", how)]
    figures: dict[str, object] = {"run": harvest.run_id, "components": n, "counted": has_key()}
    for prompt, parts in found.items():
        for name in parts[0]:
            rows.append((f"{prompt}: {name}", described([part[name] for part in parts])))
        totals = [sum(part.values(), Cost(0, 0)) for part in parts]
        rows.append((f"{prompt}: together", described(totals)))
        most = {
            "input": max(total.input for total in totals),
            "output": max(total.output for total in totals),
            "dollars": max(total.dollars for total in totals),
        }
        figures[prompt] = most
        if most["input"] > MOST_INPUT or most["output"] > MOST_OUTPUT or most["dollars"] > MOST_DOLLARS:
            fail(f"with the prompt {prompt!r} a component costs {most}")
    rows.append(("targets", f"{MOST_INPUT:,} input, {MOST_OUTPUT:,} output, ${MOST_DOLLARS} for every component"))
    report(f"labelling and scoring one component of {harvest.run_id} with {DEFAULT_MODEL}", rows, figures)


def spread(harvest: Harvest, n: int) -> list[ComponentKey]:
    """Components of all densities that fired."""
    order = np.argsort(-harvest.firing_counts, kind="stable")
    order = order[harvest.firing_counts[order] > 0]
    at = np.unique(np.linspace(0, len(order) - 1, min(n, len(order))).astype(np.int64))
    return [harvest.keys.key(flat) for flat in order[at].tolist()]


def costs(split: Split, keys: Iterable[ComponentKey], prompt: PromptName) -> list[dict[str, Cost]]:
    """Component by component: what each step costs; those without material for all of them are left out."""
    labeller = Labeller(split, DEFAULT_MODEL, prompt)
    answer = tokens(ANSWER.model_dump_json()) + LABEL_THINKING
    found = []
    for key in keys:
        call = labeller.call(key)
        judged = {score: judge_calls(split, key, score) for score in JUDGED}
        if call is None or not all(judged.values()):
            continue
        parts = {"label": Cost(input_tokens([call]), answer)}
        for score, calls in judged.items():
            each = tokens(json.dumps(CHOICE)) + JUDGE_THINKING
            parts[f"{score} ({len(calls)} trials)"] = Cost(input_tokens(calls), each * len(calls))
        found.append(parts)
    return found


def judge_calls(split: Split, key: ComponentKey, score: ScoreName) -> list[Call]:
    """As many as `evaluate` makes, with a long label."""
    made = make_trials(split, key, score, N_TRIALS)
    label = top_tokens_label(split.harvest, key)
    assert label is not None
    texts = split.harvest.token_texts
    return [judge_call(trial, label.input_view, texts, DEFAULT_MODEL) for trial in made.trials if made.reason is None]


def input_tokens(calls: list[Call]) -> int:
    if has_key():
        return asyncio.run(estimate(calls, len(calls))).input_tokens
    return sum(tokens(call.system + call.prompt + schema_json(call.schema)) for call in calls)


def tokens(text: str) -> int:
    return math.ceil(len(text) / CHARACTERS_PER_TOKEN)


def described(costs: list[Cost]) -> str:
    mean_input, mean_output = (
        round(float(np.mean([getattr(cost, side) for cost in costs]))) for side in ("input", "output")
    )
    most = max(costs, key=lambda cost: cost.input)
    mean_dollars = float(np.mean([cost.dollars for cost in costs]))
    return f"{mean_input:,} + {mean_output:,} tokens, ${mean_dollars:.5f}; at most {most.input:,}, ${most.dollars:.5f}"


if __name__ == "__main__":
    main()
