"""quickstart: A Flower / PyTorch app."""

from flwr.client import NumPyClient
from flwr.clientapp import ClientApp
from flwr.common import Context

from quickstart.task import Net, get_weights, load_data, set_weights, test, train


class FlowerClient(NumPyClient):
    """Trains and evaluates on one partition."""

    def __init__(self, trainloader, testloader, local_epochs, lr):
        self.net = Net()
        self.trainloader, self.testloader = trainloader, testloader
        self.local_epochs, self.lr = local_epochs, lr

    def fit(self, parameters, config):
        """Train the model on local data."""
        set_weights(self.net, parameters)
        train_loss = train(self.net, self.trainloader, self.local_epochs, self.lr)
        return get_weights(self.net), len(self.trainloader.dataset), {"train_loss": train_loss}

    def evaluate(self, parameters, config):
        """Evaluate the model on local data."""
        set_weights(self.net, parameters)
        loss, accuracy = test(self.net, self.testloader)
        return loss, len(self.testloader.dataset), {"accuracy": accuracy}


def client_fn(context: Context):
    """Construct the client of one node."""
    partition_id = context.node_config["partition-id"]
    num_partitions = context.node_config["num-partitions"]
    trainloader, testloader = load_data(partition_id, num_partitions, context.run_config["batch-size"])
    return FlowerClient(
        trainloader, testloader, context.run_config["local-epochs"], context.run_config["lr"]
    ).to_client()


# Flower ClientApp
app = ClientApp(client_fn=client_fn)
