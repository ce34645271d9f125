"""Grading of free-text answers: a file of answers in, grades with reasons out; and how far the judge can be trusted."""
