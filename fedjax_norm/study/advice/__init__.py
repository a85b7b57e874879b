"""What follows from the results of a study, in words."""
