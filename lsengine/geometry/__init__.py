"""Directions, principal axes and curves in parameter space."""
