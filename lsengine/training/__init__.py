"""Training of networks and curves, resumable."""
