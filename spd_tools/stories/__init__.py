"""Simple English stories from a seeded grammar, with the exact probability of every token."""

from spd_tools.stories.corpus import Stories, Story, annotate, story_grammar, story_vocabulary
from spd_tools.stories.grammar import END_OF_STORY, Grammar
from spd_tools.stories.vocabulary import UNKNOWN, Vocabulary

__all__ = [
    "END_OF_STORY",
    "UNKNOWN",
    "Grammar",
    "Stories",
    "Story",
    "Vocabulary",
    "annotate",
    "story_grammar",
    "story_vocabulary",
]
