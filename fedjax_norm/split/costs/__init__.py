"""What split learning costs: bytes, messages and floating-point operations."""
