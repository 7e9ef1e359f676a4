"""Neural topic models: the second system that is distilled with the same weights for every sample (Adhya and Sanyal
2023).
"""
