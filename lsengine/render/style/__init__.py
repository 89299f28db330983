"""Styles of figures, built in and from files."""
