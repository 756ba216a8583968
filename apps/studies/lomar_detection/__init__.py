"""Whom LoMar tells from whom, attack by attack."""
