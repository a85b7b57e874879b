"""Everything with a side effect: the loop, evaluation, checkpoints, writers and pictures."""
