"""Split learning over a real network (paper 003, sec. 4): frames, identities, seals, gRPC."""
