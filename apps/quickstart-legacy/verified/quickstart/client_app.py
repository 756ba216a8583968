"""quickstart: A Flower / PyTorch app."""

from flwr.clientapp import ClientApp
from flwr.common import Context

from flwr_faa import VerifiableClient
from quickstart.task import Net, load_data, load_samples, plan, set_weights, test


class FlowerClient(VerifiableClient):
    """Trains and evaluates on one partition."""

    def __init__(self, samples, testloader):
        super().__init__(plan, samples, answers=("paper",))
        self.net, self.testloader = Net(), testloader

    def evaluate(self, parameters, config):
        """Evaluate the model on local data."""
        set_weights(self.net, parameters)
        loss, accuracy = test(self.net, self.testloader)
        return loss, len(self.testloader.dataset), {"accuracy": accuracy}


def client_fn(context: Context):
    """Construct the client of one node."""
    partition_id = context.node_config["partition-id"]
    num_partitions = context.node_config["num-partitions"]
    _, testloader = load_data(partition_id, num_partitions, context.run_config["batch-size"])
    return FlowerClient(load_samples(context), testloader).to_client()


# Flower ClientApp
app = ClientApp(client_fn=client_fn)
