"""Flower's strategies and its example projects, alone and defended (docs/results/compatibility.md)."""
