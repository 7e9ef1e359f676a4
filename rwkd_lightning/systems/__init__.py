"""One folder per kind of model: its data, models, loss terms, teacher, evaluation and files."""
