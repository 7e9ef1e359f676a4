"""The tiny models and texts of the pipeline's tests."""

from tests.run.conftest import arguments, backbone, tweets

__all__ = ["arguments", "backbone", "tweets"]
