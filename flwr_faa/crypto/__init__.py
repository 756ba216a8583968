"""Inner-product functional encryption and what it stands on. Bottom floor: imports nothing else of this package."""
