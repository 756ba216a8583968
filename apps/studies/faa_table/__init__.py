"""Whether FAA-DL finds every attacker, convicts nobody else, and keeps the accuracy."""
