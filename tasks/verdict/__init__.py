"""The gate: statistics, the decision, and its report."""
