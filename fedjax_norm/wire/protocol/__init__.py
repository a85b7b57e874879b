"""What clients and server share: frames, identities, encryption, gRPC and the cut network."""
