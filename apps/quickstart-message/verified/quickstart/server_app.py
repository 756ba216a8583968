"""quickstart: A Flower / PyTorch app."""

from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp

from flwr_faa import FAADL
from flwr_faa.verification.paper import Paper
from quickstart.task import Net, plan

# Create ServerApp
app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Main entry point for the ServerApp."""
    # Read run config
    fraction_train: float = context.run_config["fraction-train"]
    num_rounds: int = context.run_config["num-server-rounds"]
    lr: float = context.run_config["lr"]

    # Load global model
    arrays = ArrayRecord(Net().state_dict())

    # Initialize FedAvg strategy
    strategy = FAADL(fraction_train=fraction_train, verifier=Paper(plan, sample_shape=(8, 8)))

    # Start strategy, run FedAvg for `num_rounds`
    result = strategy.start(
        grid=grid,
        initial_arrays=arrays,
        train_config=ConfigRecord({"lr": lr}),
        num_rounds=num_rounds,
    )
    print(f"eval_acc: {result.evaluate_metrics_clientapp[num_rounds]['eval_acc']:.3f}")
