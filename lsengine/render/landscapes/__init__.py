"""Surfaces in three dimensions."""
