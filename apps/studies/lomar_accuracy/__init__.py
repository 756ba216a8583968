"""The final accuracy with LoMar, beside that of other rules."""
