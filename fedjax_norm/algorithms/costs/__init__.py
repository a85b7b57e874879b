"""Bytes, round trips and simulated time of a run."""
