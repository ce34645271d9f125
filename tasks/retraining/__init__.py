"""Is a new bake-off due, and why? Cheap where nothing changed."""
