"""Split learning (paper 003): who holds which stages, and what crosses between them."""
