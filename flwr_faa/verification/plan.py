"""The training contract: what a client promises to do, so that a server can do it again."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

from flwr_faa import expected
from flwr_faa.authority import BUDGET
from flwr_faa.errors import ArgumentValueError, MissingExtraError
from flwr_faa.verification.readiness import problems
from flwr_faa.verification.training import Data, Training

#: Most fractional bits of a first layer: its sums stay exact in float64.
MAX_BITS = 32


@dataclass(frozen=True)
class TrainingPlan(Training):
    """The training contract: how every client trains one round. Server and clients share it, as code.

    Parameters
    ----------
    model : callable
        Returns a new ``torch.nn.Module``. Its arrays are those of ``state_dict()``, in that order. Its first layer
        (``Linear`` or ``Conv2d``) must see the samples, at most reshaped.
    lr, momentum, weight_decay : float
        Of ``torch.optim.SGD``.
    batch_size, epochs : int
    scale : float
        Samples are integers; the model sees ``scale * x``. Part of the first layer when it is replayed from
        encrypted samples.
    bits : int
        Fractional bits of the first layer's weights where steps are recomputed from its outputs (``spotcheck``; clients
        train on the same integers). Every bit more is a bit more that an output tells of a sample.
    loss : callable, optional
        ``loss(output, labels) -> scalar tensor``; cross entropy if not given.

    Examples
    --------
    >>> import numpy as np
    >>> from torch import nn
    >>> plan = TrainingPlan(model=lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), lr=0.1, batch_size=10)
    >>> data = np.zeros((20, 8, 8), np.uint8), np.arange(20) % 10
    >>> start = plan.initial_arrays(seed=0)
    >>> once, again = plan.train(start, data, nonce=7), plan.train(start, data, nonce=7)
    >>> all(np.array_equal(a, b) for a, b in zip(once, again))
    True
    """

    def __post_init__(self) -> None:
        if find_spec("torch") is None:  # imported where it is used: a device has little memory for what it does not use
            raise MissingExtraError("torch", "torch", "a TrainingPlan, which trains and replays by it")
        if hasattr(self.model, "state_dict") and not isinstance(self.model, type):
            raise ArgumentValueError(
                f"expected model to be a callable that returns a new torch module, got the module "
                f"{type(self.model).__name__}: give its class, or a function that makes one"
            )
        if not callable(self.model):
            raise ArgumentValueError(f"expected model to be a callable that returns a torch module, got {self.model!r}")
        for name in ("batch_size", "epochs"):
            expected.integer(name, getattr(self, name), least=1)
        expected.integer("bits", self.bits, least=0)
        expected.number("bits", self.bits, most=MAX_BITS)
        for name in ("lr", "scale"):
            expected.number(name, getattr(self, name), above=0)
        expected.number("momentum", self.momentum, least=0, below=1)
        expected.number("weight_decay", self.weight_decay, least=0)
        if self.loss is not None and not callable(self.loss):
            raise ArgumentValueError(f"expected loss to be a callable or None, got {self.loss!r}")

    def check(
        self,
        data: Data,
        budget: float = BUDGET,
        allow_convolution: bool = False,
        max_value: int = 255,
        authority: bool = False,
    ) -> None:
        """Make sure, before the first round, that ``SpotCheck`` can verify this plan on these data.

        Numbers, labels, the first layer, whether an honest client's steps can be recomputed, and whether the budget
        covers a check of its batches. Training is plain SGD by construction.

        Parameters
        ----------
        data : tuple of ndarray
            Samples and labels of one client.
        budget : float
            Of the device, and of the authority, if there is one.
        allow_convolution, max_value
            As in :class:`~flwr_faa.SpotCheck`.
        authority : bool
            Whether the server's SpotCheck has one.

        Raises
        ------
        ValueError
            With everything that must change, one line each.

        Examples
        --------
        >>> import numpy as np
        >>> from torch import nn
        >>> plan = TrainingPlan(model=lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), lr=0.1)
        >>> try:
        ...     plan.check((np.random.rand(200, 28, 28), np.arange(200) % 12), budget=1.0)
        ... except ValueError as why:
        ...     print("\\n".join(line[:60] for line in str(why).splitlines()))
        expected a plan and data that can be verified; to change:
          1. expected samples as integers, e.g. pixels from 0 to 255
          2. expected integer labels from 0 to 9, got 0 to 11, int64
        """
        if found := problems(self, data, budget, allow_convolution, max_value, authority):
            listed = "".join(f"\n  {i}. {problem}" for i, problem in enumerate(found, 1))
            raise ArgumentValueError(f"expected a plan and data that can be verified; to change:{listed}")
