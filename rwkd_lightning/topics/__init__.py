"""Neural topic models and their distillation by the Wasserstein distance between latent distributions."""
