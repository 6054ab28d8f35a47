"""Training a network: settings, data, losses, the loop, weights and their cards, search."""
