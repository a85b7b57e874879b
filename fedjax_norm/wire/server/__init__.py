"""The server of split learning over a network."""
