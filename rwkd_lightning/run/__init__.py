"""A run from its config to its folder: the stages that all systems share."""
