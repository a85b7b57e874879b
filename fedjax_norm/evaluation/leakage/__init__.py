"""Attacks that measure how much a party of split learning learns from the messages it receives."""
