"""Federated learning: sites learn at home, an aggregator merges what they learned. No Ray."""
