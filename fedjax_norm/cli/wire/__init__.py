"""The three programs of split learning over a network: server, client and certificates."""
