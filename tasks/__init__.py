"""How each stage is done: one room a stage, listed in the README so that each imports only from those above it."""
