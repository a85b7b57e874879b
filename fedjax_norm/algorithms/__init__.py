"""Federated algorithms as pure functions; one file each, readable next to its paper."""
