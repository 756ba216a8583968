"""quickstart: A Flower / transformer app."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

HELD_OUT = 100
#: Four pixels of 0 to 16 make a token of 65; an image is a text of 16 tokens.
VOCABULARY, LENGTH = 65, 16


class Net(nn.Module):
    """A transformer for sequence classification, called as those of Hugging Face are."""

    def __init__(self, hidden_size: int = 32, num_hidden_layers: int = 2):
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, hidden_size)
        self.positions = nn.Embedding(LENGTH, hidden_size)
        layer = nn.TransformerEncoderLayer(hidden_size, 4, 64, dropout=0.1, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, num_hidden_layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(hidden_size)
        self.classifier = nn.Linear(hidden_size, 10)

    def forward(self, input_ids, labels=None):
        """Return logits, and the loss if there are labels."""
        hidden = self.encoder(self.tokens(input_ids) + self.positions.weight)
        logits = self.classifier(self.norm(hidden).mean(dim=1))
        return {"logits": logits} if labels is None else {"loss": cross_entropy(logits, labels), "logits": logits}


def tokenize(images):
    """Turn images of 8 x 8 pixels into texts."""
    blocks = torch.tensor(images, dtype=torch.long).reshape(-1, 4, 2, 4, 2)
    return blocks.sum(dim=(2, 4)).flatten(1)


def load_data(partition_id: int, num_partitions: int):
    """Load one partition of scikit-learn's digits as texts, without those that the server holds."""
    images, labels = load_digits(return_X_y=True)
    mine = slice(HELD_OUT + partition_id, None, num_partitions)
    return tokenize(images[mine]), torch.tensor(labels[mine])


def load_held_out():
    """Load the texts that only the server has."""
    images, labels = load_digits(return_X_y=True)
    return tokenize(images[:HELD_OUT]), torch.tensor(labels[:HELD_OUT])


def train(model, input_ids, labels, epochs: int, batch_size: int, lr: float):
    """Train the model on the training set."""
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    model.train()
    for _ in range(epochs):
        for ids, targets in DataLoader(TensorDataset(input_ids, labels), batch_size=batch_size, shuffle=True):
            optimizer.zero_grad()
            model(ids, targets)["loss"].backward()
            optimizer.step()
