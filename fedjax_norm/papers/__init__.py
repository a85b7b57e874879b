"""The tables, figures and claims of papers 000, 001, 003 and 004, and the runs that test them."""
