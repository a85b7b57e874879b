"""What a study does: its contenders, their length, and the search for learning rates."""
