"""Split learning in which every message between parties is an object."""
