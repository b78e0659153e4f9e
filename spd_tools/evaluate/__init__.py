"""Scores of labels: what a judge is shown (without any judge), and what its answers are worth."""
