"""The tiny teacher and texts of whole runs."""

from tests.run.conftest import arguments, backbone, cache, tweets, warm

__all__ = ["arguments", "backbone", "cache", "tweets", "warm"]
