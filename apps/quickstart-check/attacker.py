"""The quickstart's client, of which some flip the sign of their model; put beside it for the check, never shipped.

Leaves a file named by its node id in ``ATTACKERS``, so that the check knows who ought to be removed.
"""

import os
from pathlib import Path

from flwr.app import Array, ArrayRecord
from flwr.clientapp import ClientApp

from quickstart.client_app import app as honest

PARTITIONS = (3, 7)


class Attacked(ClientApp):
    """Either API's app: what it replies to a training has one ArrayRecord."""

    def __call__(self, message, context):
        """Reply as the honest client does, with the model negated if this node is an attacker."""
        reply = honest(message, context)
        if message.metadata.message_type == "train" and context.node_config["partition-id"] in PARTITIONS:
            (Path(os.environ["ATTACKERS"]) / str(context.node_id)).touch()
            for name, record in list(reply.content.array_records.items()):
                reply.content[name] = ArrayRecord({k: Array(-a.numpy()) for k, a in record.items()})
        return reply


app = Attacked()
