"""Flower logs a line a node and round; here nobody reads them."""

import logging

from flwr.common.logger import FLOWER_LOGGER  # importing it sets its level

FLOWER_LOGGER.setLevel(logging.WARNING)
