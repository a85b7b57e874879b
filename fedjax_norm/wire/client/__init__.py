"""The client of split learning over a network."""
