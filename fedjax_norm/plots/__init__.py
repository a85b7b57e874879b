"""Pictures, as functions from numbers to figures."""
