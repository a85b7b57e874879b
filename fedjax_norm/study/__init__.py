"""Runs many configurations, each in a folder, and compares the results."""
