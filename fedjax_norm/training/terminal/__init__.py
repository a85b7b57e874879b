"""What a run prints, and how it reacts to signals."""
