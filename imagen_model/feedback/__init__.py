"""A model that learns what its user likes: ratings are kept, a reward is fitted, an adapter made."""
