"""Text classification and regression with Hugging Face models."""
