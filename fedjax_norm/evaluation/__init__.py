"""Test measures and diagnostics of models: one module per kind of task, diagnostics, leakage."""
