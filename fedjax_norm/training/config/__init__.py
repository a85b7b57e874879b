"""The options of a run's loop: length, schedule, evaluation, machine."""
