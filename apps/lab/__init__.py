"""The lab: poison a federation, defend it, and look at what happened."""
