"""Which process and device holds which client and its data."""
