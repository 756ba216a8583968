"""quickstart: A Flower / transformer app."""

import torch
from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from quickstart.task import Net, load_held_out

# Create ServerApp
app = ServerApp()


def global_evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
    """Evaluate the model on the server's own data."""
    model = Net()
    model.load_state_dict(arrays.to_torch_state_dict())
    input_ids, labels = load_held_out()
    model.eval()
    with torch.no_grad():
        output = model(input_ids, labels)
        logits = output["logits"]
    return MetricRecord({"loss": output["loss"].item(), "accuracy": (logits.argmax(1) == labels).float().mean().item()})


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Main entry point for the ServerApp."""
    # Read run config
    fraction_train: float = context.run_config["fraction-train"]

    # Initialize FedAvg strategy
    strategy = FedAvg(fraction_train=fraction_train, fraction_evaluate=0.0)

    # Start strategy, run FedAvg for `num_rounds`
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(Net().state_dict()),
        num_rounds=context.run_config["num-server-rounds"],
        evaluate_fn=global_evaluate,
    )
    print(result.evaluate_metrics_serverapp)
