"""quickstart: A Flower / scikit-learn app."""

from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from sklearn.metrics import log_loss

from quickstart.task import get_params, load_held_out, new_model, set_params

# Create ServerApp
app = ServerApp()


def global_evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
    """Evaluate the model on the server's own data."""
    model = new_model()
    set_params(model, arrays.to_numpy_ndarrays())
    images, labels = load_held_out()
    loss = log_loss(labels, model.predict_proba(images), labels=range(10))
    return MetricRecord({"loss": loss, "accuracy": model.score(images, labels)})


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
        initial_arrays=ArrayRecord(get_params(new_model())),
        num_rounds=context.run_config["num-server-rounds"],
        evaluate_fn=global_evaluate,
    )
    print(result.evaluate_metrics_serverapp)
