"""The picture of a finished run beside its table: ``report.html`` in its folder."""
