"""Tests of models, with one module per kind of task, and diagnostics and leakage of models."""
