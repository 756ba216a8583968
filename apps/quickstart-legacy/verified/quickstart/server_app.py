"""quickstart: A Flower / PyTorch app."""

from flwr.common import Context, ndarrays_to_parameters
from flwr.server import ServerApp, ServerAppComponents, ServerConfig

from flwr_faa.legacy import FAADL
from flwr_faa.verification.paper import Paper
from quickstart.task import Net, get_weights, plan


def server_fn(context: Context):
    """Construct what the ServerApp runs."""
    # Read from config
    num_rounds = context.run_config["num-server-rounds"]
    fraction_fit = context.run_config["fraction-fit"]

    # Initialize model parameters
    parameters = ndarrays_to_parameters(get_weights(Net()))

    # Define strategy
    strategy = FAADL(
        fraction_fit=fraction_fit,
        fraction_evaluate=1.0,
        min_available_clients=2,
        initial_parameters=parameters,
        verifier=Paper(plan, sample_shape=(8, 8)),
    )
    return ServerAppComponents(strategy=strategy, config=ServerConfig(num_rounds=num_rounds))


# Create ServerApp
app = ServerApp(server_fn=server_fn)
