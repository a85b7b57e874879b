"""Matplotlib figures, as functions of numbers."""
