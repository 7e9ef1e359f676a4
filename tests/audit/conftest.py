"""The fixtures of the tiny runs."""

from tests.run.conftest import arguments, backbone, tweets  # noqa: F401
