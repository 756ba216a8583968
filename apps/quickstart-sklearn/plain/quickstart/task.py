"""quickstart: A Flower / scikit-learn app."""

import warnings

import numpy as np
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

HELD_OUT = 100


def load_data(partition_id: int, num_partitions: int):
    """Load one partition of scikit-learn's digits, without the images that the server holds."""
    images, labels = load_digits(return_X_y=True)
    return images[HELD_OUT + partition_id :: num_partitions] / 16, labels[HELD_OUT + partition_id :: num_partitions]


def load_held_out():
    """Load the images that only the server has."""
    images, labels = load_digits(return_X_y=True)
    return images[:HELD_OUT] / 16, labels[:HELD_OUT]


def new_model(local_epochs: int = 1) -> LogisticRegression:
    """Create a model that knows its classes before it has seen an image, all weights zero."""
    model = LogisticRegression(max_iter=local_epochs, warm_start=True)
    model.classes_ = np.arange(10)
    model.coef_, model.intercept_ = np.zeros((10, 64)), np.zeros(10)
    return model


def get_params(model: LogisticRegression):
    """Return the model's arrays."""
    return [model.coef_, model.intercept_]


def set_params(model: LogisticRegression, params):
    """Give the model these arrays."""
    model.coef_, model.intercept_ = (np.array(p) for p in params)


def train(model: LogisticRegression, images, labels):
    """Train the model on the training set."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a round is a few iterations
        model.fit(images, labels)
