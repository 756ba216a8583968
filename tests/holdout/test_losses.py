"""A loss from whatever function the operator has, and from a torch model."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, MetricRecord
from torch import nn

from flwr_faa import Holdout, TrainingPlan
from flwr_faa.holdout.losses import Landscape, number_of
from flwr_faa.holdout.torch_loss import TorchLoss
from flwr_faa.replies.updates import Reply, read_replies

W = [np.zeros((2, 3), np.float32), np.array([3], np.int64)]
NAMES = ("layer.weight", "counter")


def landscape(loss: object) -> Landscape:
    batch = read_replies([Reply(1, [W[0] + 1, W[1]], 5)], W, names=NAMES)
    return Landscape(Holdout(loss).loss, batch, W, 7)


def plain(arrays: list[np.ndarray]) -> float:
    return float(arrays[0].sum())


def of_message(server_round: int, arrays: ArrayRecord) -> MetricRecord:
    assert server_round == 7 and list(arrays) == list(NAMES)
    found = arrays.to_numpy_ndarrays()
    return MetricRecord({"accuracy": 0.5, "loss": plain(found)})


def of_legacy(server_round: int, arrays: list[np.ndarray], config: dict[str, object]) -> tuple[float, dict]:
    assert server_round == 7 and config == {}
    return plain(arrays), {"accuracy": 0.5}


class Method:
    def evaluate(self, server_round: int, arrays: ArrayRecord) -> MetricRecord:
        return of_message(server_round, arrays)


@pytest.mark.parametrize(
    "loss",
    [plain, lambda arrays, scale=1.0: plain(arrays) * scale, of_message, of_legacy, Method().evaluate,
     lambda arrays: torch.tensor(plain(arrays)), lambda arrays: np.float32(plain(arrays))],
)  # fmt: skip
def test_any_function_will_do(loss: object) -> None:
    there = landscape(loss)
    assert there.start() == 0.0
    assert there.at(np.ones(6)) == 6.0


def test_a_function_is_given_arrays_of_its_own() -> None:
    def spoils(arrays: list[np.ndarray]) -> float:
        found = plain(arrays)
        arrays[0][:] = 99
        return found

    there = landscape(spoils)
    assert [there.start(), there.at(np.ones(6)), there.at(np.ones(6))] == [0.0, 6.0, 6.0]
    assert not W[0].any()


@pytest.mark.parametrize("found", [None, {"accuracy": 0.9}, MetricRecord({"acc": 1.0}), "low", (), np.zeros(3)])
def test_what_has_no_loss_is_told_apart(found: object) -> None:
    with pytest.raises(ValueError, match=r'expected (the loss as a number|"loss" among)'):
        number_of(found)
    with pytest.raises(
        ValueError, match="expected a held-out loss of the model that was broadcast, got ArgumentValueError"
    ):
        landscape(lambda arrays: found).start()


def test_a_loss_by_another_name_is_found() -> None:
    assert number_of(MetricRecord({"test_loss": 2.0, "accuracy": 0.1})) == 2.0


@pytest.mark.parametrize("loss", [lambda: 1.0, lambda a, b, c, d: 1.0])
def test_functions_of_other_arguments_are_refused(loss: object) -> None:
    with pytest.raises(TypeError, match="expected loss to be a function of"):
        Holdout(loss)


def test_other_mistakes_are_refused_where_they_are_made() -> None:
    with pytest.raises(TypeError, match="expected loss to be a function"):
        Holdout(0.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected among to be one of"):
        Holdout(plain, "all")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="expected model to be a torch module"):
        Holdout.of(nn.Linear, np.zeros((2, 3)), np.zeros(2, np.int64))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected as many labels as samples, at least one, got 2 and 3"):
        Holdout.of(nn.Linear(3, 2), np.zeros((2, 3), np.float32), np.zeros(3, np.int64))


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 4))


def samples(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, 5)).astype(np.float32), np.arange(count) % 4


def test_a_torch_model_has_its_loss_and_its_gradient() -> None:
    """In evaluation mode, over chunks; the gradient by differences of the loss."""
    model, (x, y) = net(), samples(601)
    loss = TorchLoss(model, x, y)
    arrays = [np.array(t.numpy()) for t in model.state_dict().values()]
    with torch.no_grad():
        expected = float(nn.functional.cross_entropy(model.eval()(torch.from_numpy(x)), torch.from_numpy(y)))
    assert loss(arrays) == pytest.approx(expected, rel=1e-6) and loss(arrays) == loss(arrays)
    slopes = loss.gradient(arrays)
    assert [s.shape for s in slopes] == [a.shape for a in arrays]
    named = list(model.state_dict())
    for name, array, slope in zip(named, arrays, slopes, strict=True):
        if "running" in name or "num_batches" in name:
            assert not slope.any()
            continue
        step = np.random.default_rng(1).normal(size=array.shape).astype(np.float32) * 1e-2
        up, down = (
            loss([a + sign * step if n == name else a for n, a in zip(named, arrays, strict=True)]) for sign in (1, -1)
        )
        assert up - down == pytest.approx(2 * float((slope * step).sum()), rel=0.05, abs=2e-5)


def test_the_model_it_was_given_stays_as_it_is() -> None:
    model, (x, y) = net(), samples(8)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    loss = TorchLoss(model, x, y)
    loss([np.array(t.numpy()) + 1 for t in model.state_dict().values()])
    assert model.training and all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_what_the_samples_cannot_tell_is_said() -> None:
    x, y = samples(200)
    assert Holdout.of(net(), x, y).notes == ()
    few = Holdout.of(net(), x[:20], y[:20]).notes
    assert len(few) == 1 and "20 samples, fewer than 50" in few[0]
    rows = y != 3
    assert "fewer than 3 samples of 1 of 4 labels (3)" in Holdout.of(net(), x[rows], y[rows]).notes[0]
    skewed = np.where(np.arange(200) < 180, 0, y)
    assert "180" in Holdout.of(net(), x, skewed).notes[0] or "have the label 0" in Holdout.of(net(), x, skewed).notes[0]


def test_a_plan_of_the_clients_and_held_out_data_agree_on_the_model() -> None:
    plan = TrainingPlan(model=net, lr=0.1)
    holdout = Holdout.of(plan.blank(), *samples(60))
    assert number_of(holdout.loss(plan.initial_arrays(0))) > 0


def test_importing_it_leaves_torch_alone() -> None:
    code = "import sys, flwr_faa; from flwr_faa import Holdout; Holdout(lambda a: 0.0); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_weights_lie_in_memory_as_the_models_do() -> None:
    """Otherwise a convolution that the project has laid out channels last takes three times as long."""
    seen = []

    class Convolution(nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(self.weight.stride())
            return super().forward(x)

    model = nn.Sequential(Convolution(3, 4, 3), nn.Flatten(), nn.Linear(16, 2)).to(memory_format=torch.channels_last)
    loss = TorchLoss(model, np.ones((5, 3, 4, 4), np.float32), np.zeros(5, np.int64))
    arrays = [np.array(t.numpy(), order="C") for t in model.state_dict().values()]
    assert not model[0].weight.is_contiguous()
    loss(arrays)
    loss.gradient(arrays)
    assert len(seen) == 3 and set(seen) == {model[0].weight.stride()}
