"""The accuracy that LoMar ends with, beside other rules."""
