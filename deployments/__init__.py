"""Work pools, deployments and schedules."""
