"""Convolutions and pooling, written the way each backend runs them fast."""
