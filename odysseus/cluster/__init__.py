"""Several nodes behind one service: see `cluster`. One without others loads no more of it than what has no Redis."""
