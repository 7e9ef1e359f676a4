"""The LightningModule and the parts of its training step."""
