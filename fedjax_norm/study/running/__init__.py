"""Trains the contenders of a study, on one machine or several."""
