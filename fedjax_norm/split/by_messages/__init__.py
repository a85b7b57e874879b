"""Split learning with separately compiled parties that exchange :class:`Message` objects."""
