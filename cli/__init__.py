"""The command line: `bakeoff run`, `bakeoff predict`, `bakeoff champion`."""
