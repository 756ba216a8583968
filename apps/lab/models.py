"""The models; each sees samples of the data set's shape, images (channels, H, W) or rows (features,)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # loading torch takes two seconds, and a client enrols without it
    from torch import nn


def logistic(shape: Sequence[int], classes: int, zero: bool = False) -> nn.Module:
    """Return a logistic regression. With ``zero`` it starts from w = 0, LoMar's setting (Sec. 4.1.2)."""
    from torch import nn

    layer = nn.Linear(math.prod(shape), classes)
    if zero:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(nn.Flatten(), layer)


def mlp(shape: Sequence[int], classes: int, units: int = 32) -> nn.Module:
    """Return a network with one hidden layer."""
    from torch import nn

    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), units), nn.ReLU(), nn.Linear(units, classes))


def cnn(shape: Sequence[int], classes: int, batch_norm: bool = False) -> nn.Module:
    """Return FAA-DL's CNN (Sec. VII-A): 5x5x32, pool, 5x5x64, pool, 320, softmax; 383,306 parameters on 28 x 28 pixels.

    With ``batch_norm`` after each convolution it is the paper's model for Fashion-MNIST. The softmax is part of the
    loss. The paper names one ReLU, at the 320; here there is one after each pooling too, or two convolutions in a row
    would be a single linear map but for the pooling. On 8 x 8 pixels two 5 x 5 convolutions need padding.

    Weights lie in memory channels last: torch pools such images many at once, others one number after the other
    (``python -m benchmarks.training``).
    """
    import torch
    from torch import nn

    if len(shape) != 3:
        raise ValueError(f"expected images of shape (channels, H, W) for a CNN, got {tuple(shape)}")
    padding = 2 if shape[-1] < 16 else 0
    sides = [(((side + 2 * padding - 4) // 2) + 2 * padding - 4) // 2 for side in shape[1:]]

    def block(before: int, after: int) -> list[nn.Module]:
        norm = [nn.BatchNorm2d(after)] if batch_norm else []
        return [nn.Conv2d(before, after, 5, padding=padding), *norm, nn.MaxPool2d(2), nn.ReLU()]

    net = nn.Sequential(
        *block(shape[0], 32),
        *block(32, 64),
        nn.Flatten(),
        nn.Linear(64 * math.prod(sides), 320),
        nn.ReLU(),
        nn.Linear(320, classes),
    )
    return net.to(memory_format=torch.channels_last)


def squeezenet(shape: Sequence[int], classes: int) -> nn.Module:
    """Return torchvision's SqueezeNet 1.1, untrained (Iandola et al. 2016): first 3x3x64 as in LoMar's Table 2.

    The table's last convolution, 10 x 512, is torchvision's for ten labels. For grey images the first layer has one
    channel.
    """
    if len(shape) != 3 or min(shape[1:]) < 32:
        raise ValueError(f"expected images of at least 32 x 32 pixels for SqueezeNet, got shape {tuple(shape)}")
    from torch import nn
    from torchvision.models import squeezenet1_1

    squeezenet = squeezenet1_1(num_classes=classes)
    if shape[0] != 3:
        squeezenet.features[0] = nn.Conv2d(shape[0], 64, 3, stride=2)
    model: nn.Module = squeezenet
    return model
