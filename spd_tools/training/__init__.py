"""Training: SPD decompositions of targets, and the toy targets themselves."""
