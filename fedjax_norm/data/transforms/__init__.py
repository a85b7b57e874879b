"""Transformations of images between storage and model."""
