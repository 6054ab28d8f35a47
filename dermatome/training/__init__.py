"""Training of networks: settings, data, losses, the training loop, weights and their cards, and search."""
