"""Every contender's predictions in one schema, their scores and what they cost."""
