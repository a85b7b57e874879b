"""Attacks that measure how much the messages of split learning reveal about images and labels."""
