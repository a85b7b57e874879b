"""What both sides of the network share: frames, identities, encryption, transport."""
