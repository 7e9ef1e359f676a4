"""Results that several runs share, kept on disk by everything they depend on; see ``python -m
rwkd_lightning.cache``.
"""
