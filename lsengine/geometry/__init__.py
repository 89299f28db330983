"""Directions, principal axes and curves in parameter space.

Everything here runs on the CPU and knows no file and no rank.
"""
