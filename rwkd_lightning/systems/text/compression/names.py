"""The words of ``pair.student.embedding``."""

METHODS = ("blocks", "released", "one_block", "svd")
"""``blocks``: k-means on log scores, ranks that leave the least error; ``released``: as Lee et al.'s code, k-means on
the scores and ranks in their proportion; ``one_block``: one weighted low rank; ``svd``: one, all words alike.
"""
SCORES = ("frequency", "tfidf", "fisher", "shuffled")
"""``shuffled`` is a control: frequencies at other words' places."""
REFINES = ("none", "move")
