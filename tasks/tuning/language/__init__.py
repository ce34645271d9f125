"""Objectives over text itself: further pre-training, completions, preferences and reinforcement."""
