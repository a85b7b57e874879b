"""Sets of runs that belong together, and what they show."""
