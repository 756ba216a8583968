"""The version that works: many views, and a threshold for them."""
