"""The tiny BERT and the tiny tweets of the pipeline's tests."""

from tests.pipeline.conftest import arguments, backbone, glue, tweets

__all__ = ["arguments", "backbone", "glue", "tweets"]
