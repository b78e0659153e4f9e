"""What each experiment asks, what its result shows and what it cannot show: one text for all doors.

Names of experiments, of fields of the experiment's request and of modes stand in braces: each door spells them as they
are typed there. Nothing heavy is imported: the command line shows these texts before anything is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

_BRACED = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Guide:
    """One experiment."""

    question: str
    """What it asks and how it finds out."""
    shows: str
    """What may be concluded, what may not, and what to do next."""
    example: str
    """Arguments of a command line on a harvest of `planted`, after the command's name."""

    def text(self, spelt: Callable[[str], str]) -> str:
        """Two paragraphs; ``spelt``: a name in braces -> what is typed for it."""
        return _BRACED.sub(lambda name: spelt(name[1]), f"{self.question}\n\n{self.shows}")


_COUNTERFACTUAL = "Counterfactual. It does not say which other tokens would do as well: {sweep} at the offset "

GUIDES: dict[str, Guide] = {
    "triage": Guide(
        "Is a component worth an investigation: dead, weak or worth it. Cheap; run it first. Density and the norms of "
        "its vectors, and the mean KL of the model's predictions when it is removed, against random components of "
        "like density.",
        "Dead: it never fired. Weak: when it is removed, neither KL nor the largest change of a logit comes up to "
        "removing others like it. Stop there and say so, unless there is a reason to go on. Worth it says nothing "
        "about what it means. Next: overview.",
        "h.0.mlp.down_proj:8",
    ),
    "enrichment": Guide(
        "Which tokens does it go with? E[activation given the token] split into how often it fires on the token and "
        "how strongly, with intervals, and p-values corrected for all tokens of the harvest.",
        "Observational, read off the counts: that it goes with a token does not show that the token makes it fire. "
        "Next: {sweep} tests a token as the cause; a rate below 100 % means that context decides ({minimal_context}, "
        "{occlusion}).",
        "h.0.mlp.down_proj:8 --limit 5",
    ),
    "cofiring": Guide(
        "Does another component fire with it beyond what the token explains? Both are compared within each token, with "
        "the cosines of their read and write vectors.",
        "Two components that fire on the same token co-fire without having anything to do with each other: an odds "
        "ratio near 1 given the token says that the token explains it. High Jaccard and cosines near 1: duplicates. "
        "Observational either way: {ablate} shows what depends on what.",
        "h.0.mlp.down_proj:13 h.0.mlp.down_proj:0",
    ),
    "probe": Guide(
        'Activations of a component at every token of texts that you write, or of rows of the harvest ("row:12"). The '
        "quickest way to try an idea: vary one thing at a time and give the variants together.",
        "A probe shows that it fires on these texts, not why, and supports no label. Texts used here cannot be used in "
        "{generate_and_test} afterwards: keep fresh ones for that. Next: {sweep} or {minimal_context}, which have "
        "controls.",
        'h.0.mlp.down_proj:8 "the storm sings" "because storm sings" row:12',
    ),
    "sweep": Guide(
        "Is a token the cause? Puts each candidate into many contexts, beside tokens of like frequency as controls. "
        "{offset} 0 replaces the token at which the response is measured, -1 the one before, and so on. With {base} "
        "random, a token that sets it off does so in any context; with {base} firing, one that blocks it shows as a "
        "drop.",
        "Each candidate is ranked among its controls, and effect, control and p are about the candidates as a set: "
        "give together what your hypothesis says belongs together (a class), and what should fail in a sweep of its "
        "own. An interval outside the control's is counterfactual evidence for an input view. It does not show what "
        "else is needed: see {minimal_context} and {interact}.",
        "h.0.mlp.down_proj:8 --base firing --offset -1 --token because while never the",
    ),
    "occlusion": Guide(
        "Which of the tokens before it matter? The tokens at each offset are replaced in turn, at firings (what it "
        "needs) or, with {at} silent and {on} its trigger, where it stayed silent (what blocks it: a gate).",
        "At firings it always finds something, whatever the label is: it says where the cause lies and tests no label. "
        "What two tokens can each do alone, replacing one of them does not show: see {interact}. "
        + _COUNTERFACTUAL
        + "that stands out.",
        "h.0.mlp.down_proj:8 --at silent --on frost thunder fog storm",
    ),
    "minimal_context": Guide(
        "Which context is enough? The shortest context that keeps 80 % of the response ({share}), and which of its "
        "tokens are needed, at random firings or at {places}; length 1 means that the firing token alone does it.",
        "Contexts longer than {max_length} are not tried, and blockers that are absent do not show: see {occlusion}. "
        + _COUNTERFACTUAL
        + "that was found.",
        "h.0.mlp.down_proj:8 --n-contexts 12",
    ),
    "position": Guide(
        "Does it care where? {absolute}: the end of a context is moved through the row: does it care where it stands? "
        "distance: a cue token ({cue}) is moved away from the measured position: how far back does it still matter?",
        _COUNTERFACTUAL + "where the cue counts.",
        "h.0.mlp.down_proj:8 --mode distance --at silent --cue because",
    ),
    "interact": Guide(
        "Do two tokens need or block each other? I = f(B+i+j) - f(B+i) - f(B+j) + f(B) for all pairs of a first and a "
        "second token, put into the same contexts, as a heatmap.",
        "I above 0: both together do more than each alone (conjunction, bigram); below 0: one takes away what the "
        "other brings (gate), or either is enough (or). A pair is ranked among other tokens of like frequency in the "
        "place of either, in the same contexts, and must differ in both; effect, control and p are about all tokens of "
        "a place as a set: give the class that your hypothesis names, as members left out may be controls. Gating "
        "activations saturate, which looks like an interaction: keep {response} ranking unless you ask about firing "
        "itself.",
        "h.0.mlp.down_proj:8 --first because while --second storm frost",
    ),
    "ablate": Guide(
        "What does it do to the predictions? Removes it (or keeps it alone, or clamps it) and compares the logits of "
        "next tokens and the KL of the predictions, against random components of like density. Give in {tokens} those "
        "that your hypothesis names: they are tested, while the lists of raised and lowered tokens only suggest.",
        "Tokens that rise when it is removed are those it suppresses; statistics over firings cannot show that. p is a "
        "rank among those components: of the KL one-sided, of named tokens on tokens of like frequency. Suppression "
        "needs {n_sites} of at least 20. It shows the effect in these contexts, not by which path. Next: "
        "{direct_effect}.",
        "h.0.mlp.down_proj:8 --token sings runs laughs dances",
    ),
    "direct_effect": Guide(
        "Which tokens it writes: its write vector through the unembedding (logit lens), most raised and most lowered. "
        "Structural: read off the weights, no text is run.",
        "It sees only the direct path to the logits; layers in between may undo it or do more, and an early layer's "
        "write vector may mean nothing there. Supports no label by itself: compare with {ablate}.",
        "h.0.mlp.down_proj:8 --limit 5",
    ),
    "generate_and_test": Guide(
        "Test a label on texts written from it: does the component fire where the label says, and only there? Two "
        "steps. First give {label}, and {positives} and {negatives} written from it alone: the answer proposes near "
        "misses (the positives with their trigger moved, replaced or in another context) and stores nothing. Then give "
        "the same and, verbatim in {near_misses}, those of which the label says that they do NOT fire.",
        "A supported label needs at least 10 positives, 10 negatives of which half are near misses, and a balanced "
        "accuracy whose interval lies above 0.6; the test counts for the wording in {label} and no other. Texts that "
        "were probed or tested before, and copies of harvested rows, are refused. Do not tune the label on these texts "
        "and test again on variants: write down what failed, then write fresh ones. It is about when it fires, not "
        "about what it does: that takes {ablate}.",
        "h.0.mlp.down_proj:8 --texts gate.yaml",
    ),
}
