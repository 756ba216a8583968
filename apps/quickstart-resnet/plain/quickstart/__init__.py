"""quickstart: A Flower / ResNet app."""
