"""From a run to labels and their scores, as one job: harvest, intruder, interpret, detection, fuzzing."""
