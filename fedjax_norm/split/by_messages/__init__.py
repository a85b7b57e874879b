"""Split learning in which each party is compiled separately and every message is an object."""
