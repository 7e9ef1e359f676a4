"""Frozen encoders of pictures: a grid of features for each, computed once."""
