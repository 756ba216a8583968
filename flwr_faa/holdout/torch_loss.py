"""The loss of a torch model on held-out samples, and its gradient."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from flwr_faa.errors import ArgumentTypeError, ArgumentValueError
from flwr_faa.replies.updates import Arrays

#: Below so many samples a loss is mostly chance; below so many of a label nothing is known of it.
FEW, FEW_OF_A_LABEL = 50, 3
#: Samples in a forward pass.
CHUNK = 500


class TorchLoss:
    """Callable: the mean loss of a model with these arrays, in evaluation mode.

    Parameters
    ----------
    model, samples, labels, loss
        As in :meth:`flwr_faa.Holdout.of`.

    Raises
    ------
    TypeError, ValueError
        If they do not fit together.
    """

    def __init__(
        self,
        model: nn.Module,
        samples: npt.NDArray[Any] | torch.Tensor,
        labels: npt.NDArray[Any] | torch.Tensor,
        loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            got = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
            raise ArgumentTypeError(f"expected model to be a torch module, e.g. Net(), got {got}")
        self.model = deepcopy(model).eval()
        self.samples, self.labels = _tensor(samples), _tensor(labels)
        if not 0 < len(self.samples) == len(self.labels):
            raise ArgumentValueError(
                f"expected as many labels as samples, at least one, got {len(self.samples)} and {len(self.labels)}"
            )
        self._loss = loss or cross_entropy
        device = next((t.device for t in self.model.state_dict().values()), torch.device("cpu"))
        self.samples, self.labels = self.samples.to(device), self.labels.to(device)
        with torch.inference_mode():
            output = self.model(self.samples[:1])
        self.notes = _notes(self.labels, output.shape[1]) if loss is None and output.ndim == 2 else ()

    def __repr__(self) -> str:
        return f"TorchLoss({type(self.model).__name__}, {len(self.labels)} samples)"

    def __call__(self, arrays: Arrays) -> float:
        """Return the loss."""
        with torch.inference_mode():
            return float(self._total(self._state(arrays)))

    def gradient(self, arrays: Arrays) -> list[npt.NDArray[Any]]:
        """Return the gradient, one array for each of these; zero for what is not trained."""
        state = self._state(arrays)
        trained = [name for name, p in self.model.named_parameters() if p.requires_grad]
        with torch.enable_grad():
            leaves = [state[name].requires_grad_() for name in trained]
            found = torch.autograd.grad(self._total(state), leaves, allow_unused=True)
        slopes = {name: g for name, g in zip(trained, found, strict=True) if g is not None}
        return [
            slopes[name].cpu().numpy() if name in slopes else np.zeros_like(a)
            for name, a in zip(state, arrays, strict=True)
        ]

    def _total(self, state: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the mean loss, some samples at a time."""
        losses = []
        for start in range(0, len(self.labels), CHUNK):
            x, y = self.samples[start : start + CHUNK], self.labels[start : start + CHUNK]
            losses.append(self._loss(functional_call(self.model, state, (x,)), y) * (len(y) / len(self.labels)))
        return torch.stack(losses).sum()

    def _state(self, arrays: Arrays) -> dict[str, torch.Tensor]:
        """Return tensors of these arrays under the model's names, laid out in memory as the model's are.

        A convolution whose weights lie otherwise than they did in the model may take three times as long.
        """
        own = self.model.state_dict()
        if [a.shape for a in arrays] != [tuple(t.shape) for t in own.values()]:
            got = [a.shape for a in arrays]
            raise ArgumentValueError(
                f"expected the {len(own)} arrays of {type(self.model).__name__}, got the shapes {got}"
            )
        return {
            name: torch.empty_like(t).copy_(torch.from_numpy(np.asarray(a, order="C")))
            for (name, t), a in zip(own.items(), arrays, strict=True)
        }


def _tensor(data: npt.NDArray[Any] | torch.Tensor) -> torch.Tensor:
    return data.detach() if isinstance(data, torch.Tensor) else torch.from_numpy(np.array(data))


def _notes(labels: torch.Tensor, classes: int) -> tuple[str, ...]:
    """What these labels cannot tell."""
    counts = Counter(labels.reshape(-1).tolist())
    rare = [label for label in range(classes) if counts[label] < FEW_OF_A_LABEL]
    found = []
    if len(labels) < FEW:
        found.append(f"held-out data: {len(labels)} samples, fewer than {FEW}: what they tell is mostly chance")
    if rare:
        shown = ", ".join(map(str, rare[:10])) + (", ..." if len(rare) > 10 else "")
        found.append(
            f"held-out data: fewer than {FEW_OF_A_LABEL} samples of {len(rare)} of {classes} labels ({shown}): clients "
            "that know little else are left out, and poison among these labels is not seen"
        )
    if not rare and max(counts.values()) > 3 * len(labels) / classes:
        label = max(counts, key=lambda k: (counts[k], -k))
        found.append(
            f"held-out data: {counts[label]} of {len(labels)} samples have the label {label}: the loss tells little of "
            "the others"
        )
    return tuple(found)
