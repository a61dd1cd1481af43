"""Whole jobs, from a configuration to a directory: train, resume, cache, evaluate, inspect."""
