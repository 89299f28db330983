"""lsengine in Python: a function for every command, and surfaces of networks in memory.

The package hands the functions on, each when it is asked for: those that read need no torch.
"""
