"""What a run leaves to be read: its record, its report in one HTML file, the list of runs, and two runs beside each other."""
