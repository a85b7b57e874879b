"""The three binaries of split learning between processes: server, client and certificates."""
