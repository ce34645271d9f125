"""Contender folders: the loader that turns one into a predictor, the trivial contenders, and prediction in a child process."""
