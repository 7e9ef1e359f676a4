"""Which labels, and which outputs of the teacher, are wrong: ``python -m rwkd_lightning.audit RUN``."""
