"""What happens to an image between storage and model."""
