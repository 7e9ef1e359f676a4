"""Neural topic models (Adhya and Sanyal 2023), distilled with a weight for every sample."""
