"""Prediction in earnest: rows without a right answer, in files or as they come, with a contender of any kind."""
