"""Terminal output of a run (progress line, tables), and handling of signals."""
