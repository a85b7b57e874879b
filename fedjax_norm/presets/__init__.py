"""Whole experiments as flag files; ``--preset=list`` describes them."""
