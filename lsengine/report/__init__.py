"""Tables and figures of flatness, progress, trajectories."""
