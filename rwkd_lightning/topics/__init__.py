"""Wasserstein knowledge distillation of neural topic models (Adhya & Sanyal, ECIR 2023)."""
