"""Decisions between intervals, made on the host from what was measured."""
