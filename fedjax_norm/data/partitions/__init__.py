"""Which client holds which training examples."""
