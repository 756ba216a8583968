"""Flower apps; not part of the distribution."""
