"""quickstart: A Flower / transformer app."""
