"""The finished run and the export of tests/export."""

from tests.export.conftest import out, run, said, save  # noqa: F401
from tests.run.conftest import backbone, tweets  # noqa: F401
