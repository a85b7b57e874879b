"""Decisions between intervals, made on the host from measurements."""
