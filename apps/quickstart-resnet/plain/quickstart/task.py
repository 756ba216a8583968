"""quickstart: A Flower / ResNet app."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset
from torchvision.transforms import v2

HELD_OUT = 100


class Block(nn.Module):
    """Two convolutions with batch normalisation, and a way around them."""

    def __init__(self, before: int, after: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.around = nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, x):
        """Return what both ways give together."""
        inside = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(inside)) + self.around(x))


class Net(nn.Sequential):
    """A ResNet for handwritten digits of 8 x 8 pixels."""

    def __init__(self):
        super().__init__(Block(1, 16, 1), Block(16, 32, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


#: What an image looks like another time: turned and shifted a little.
augment = v2.RandomAffine(degrees=10, translate=(0.1, 0.1))


def load_data(partition_id: int, num_partitions: int):
    """Load one partition of scikit-learn's digits, without the images that the server holds."""
    digits = load_digits()
    mine = slice(HELD_OUT + partition_id, None, num_partitions)
    return torch.tensor(digits.images[mine, None] / 16, dtype=torch.float32), torch.tensor(digits.target[mine])


def load_held_out():
    """Load the images that only the server has."""
    digits = load_digits()
    images = torch.tensor(digits.images[:HELD_OUT, None] / 16, dtype=torch.float32)
    return images, torch.tensor(digits.target[:HELD_OUT])


def train(model, images, labels, epochs: int, batch_size: int, lr: float):
    """Train the model on the training set."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    model.train()
    for _ in range(epochs):
        for batch, targets in DataLoader(TensorDataset(images, labels), batch_size=batch_size, shuffle=True):
            optimizer.zero_grad()
            cross_entropy(model(augment(batch)), targets).backward()
            optimizer.step()
