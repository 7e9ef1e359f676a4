strategy=None
