"""Tests of tasks/data."""
