"""Learning what the user likes: ratings are kept, a reward is fitted, an adapter is made."""
