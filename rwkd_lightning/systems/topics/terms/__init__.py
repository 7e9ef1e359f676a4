"""The loss terms of topic models."""
