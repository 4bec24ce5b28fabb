"""Learning from ratings: a store of ratings, a reward that is fitted to them, an adapter."""
