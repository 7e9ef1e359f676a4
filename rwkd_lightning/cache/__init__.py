"""Results that several runs share, kept on disk by all that they depend on; see ``python -m rwkd_lightning.cache``."""
