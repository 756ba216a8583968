"""The quickstart's client, of which some train honestly on wrong labels; put beside it for the check, never shipped.

Leaves a file named by its node id in ``ATTACKERS``, so that the check knows who ought to be left out.
"""

import os
from pathlib import Path

from flwr.clientapp import ClientApp

from quickstart import client_app

PARTITIONS = (3, 7)
load_data = client_app.load_data


def load_poisoned(partition_id, num_partitions):
    """Load a partition as the project does; an attacker calls every digit d by the name of 9 - d."""
    samples, labels = load_data(partition_id, num_partitions)
    return samples, 9 - labels if partition_id in PARTITIONS else labels


client_app.load_data = load_poisoned


class Poisoned(ClientApp):
    """The project's app over these data."""

    def __call__(self, message, context):
        """Reply as the project does."""
        if message.metadata.message_type == "train" and context.node_config["partition-id"] in PARTITIONS:
            (Path(os.environ["ATTACKERS"]) / str(context.node_id)).touch()
        return client_app.app(message, context)


app = Poisoned()
