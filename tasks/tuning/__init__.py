"""How a model learns: methods, objectives, batches, checkpoints, and the child process that trains."""
