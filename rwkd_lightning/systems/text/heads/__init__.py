"""What a teacher's blocks would answer: linear pseudo classifiers on its frozen states, and their cached logits."""
