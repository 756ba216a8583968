"""Inner-product functional encryption and what it stands on. Imports nothing else of this package but its errors."""
