"""How much a party of split learning can learn from the messages that it receives."""
