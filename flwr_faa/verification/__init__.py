"""Verification: the training contract, what travels, and the verifiers."""
