"""Terminal output of a run (progress line, tables), and signals that stop a run."""
