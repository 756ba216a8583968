"""Flower logs a line a node and round; here nobody reads them."""

import logging

logging.getLogger("flwr").setLevel(logging.WARNING)
