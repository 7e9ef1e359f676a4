"""Text and picture: a student distilled from a teacher's answers to both and to each of them alone."""
