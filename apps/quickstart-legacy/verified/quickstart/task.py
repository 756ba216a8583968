"""quickstart: A Flower / PyTorch app."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from flwr_faa import TrainingPlan


class Net(nn.Module):
    """Two dense layers for handwritten digits of 8 x 8 pixels."""

    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(64, 32)
        self.fc2 = nn.Linear(32, 10)

    def forward(self, x):
        return self.fc2(torch.relu(self.fc1(x.flatten(1))))


# How a client trains a round: server and client must agree on it to the bit.
plan = TrainingPlan(model=Net, lr=0.1, batch_size=16, epochs=2, scale=1 / 16)


def load_samples(context):
    """What ``load_data`` trains on, as integers."""
    partition_id, num_partitions = context.node_config["partition-id"], context.node_config["num-partitions"]
    digits = load_digits()
    images, labels = digits.images[partition_id::num_partitions], digits.target[partition_id::num_partitions]
    split = int(0.8 * len(labels))
    return images[:split].astype("uint8"), labels[:split]


def load_data(partition_id: int, num_partitions: int, batch_size: int):
    """Load one partition of scikit-learn's digits: 80% to train, 20% to test."""
    images, labels = load_digits(return_X_y=True)
    images = torch.tensor(images[partition_id::num_partitions] / 16, dtype=torch.float32)
    labels = torch.tensor(labels[partition_id::num_partitions])
    split = int(0.8 * len(labels))
    trainloader = DataLoader(TensorDataset(images[:split], labels[:split]), batch_size=batch_size, shuffle=True)
    testloader = DataLoader(TensorDataset(images[split:], labels[split:]), batch_size=batch_size)
    return trainloader, testloader


def train(net, trainloader, epochs, lr):
    """Train the model on the training set."""
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    net.train()
    running_loss = 0.0
    for _ in range(epochs):
        for images, labels in trainloader:
            optimizer.zero_grad()
            loss = criterion(net(images), labels)
            loss.backward()
            optimizer.step()
            running_loss += loss.item()
    return running_loss / (epochs * len(trainloader))


def test(net, testloader):
    """Validate the model on the test set."""
    criterion = nn.CrossEntropyLoss()
    correct, loss = 0, 0.0
    net.eval()
    with torch.no_grad():
        for images, labels in testloader:
            outputs = net(images)
            loss += criterion(outputs, labels).item()
            correct += (outputs.argmax(1) == labels).sum().item()
    return loss / len(testloader), correct / len(testloader.dataset)


def get_weights(net):
    """The model's arrays, for the server."""
    return [value.cpu().numpy() for value in net.state_dict().values()]


def set_weights(net, parameters):
    """The server's arrays, into the model."""
    net.load_state_dict({k: torch.tensor(v) for k, v in zip(net.state_dict(), parameters, strict=True)})
