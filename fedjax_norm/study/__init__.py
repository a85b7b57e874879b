"""Compares norms, algorithms and communication: plans runs, trains them and draws conclusions."""
