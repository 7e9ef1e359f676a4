"""Noisy self-distillation of summarisers (Liu, Shen and Lapata, NAACL 2021)."""
