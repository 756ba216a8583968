"""quickstart: A Flower / scikit-learn app."""
