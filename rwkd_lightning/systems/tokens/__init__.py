"""Token classification with Hugging Face models: a tag for every word."""
