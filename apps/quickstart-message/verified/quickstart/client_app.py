"""quickstart: A Flower / PyTorch app."""

from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from flwr_faa import verifiable
from quickstart.task import Net, load_data, load_samples, plan
from quickstart.task import test as test_fn

# Flower ClientApp
app = ClientApp()


@app.train()
def train(msg: Message, context: Context):
    """Train the model on local data."""
    return verifiable(plan, load_samples(context), answers=("paper",)).train(msg, context)


@app.query("verify")
def verify(msg: Message, context: Context):
    """Answer for the training."""
    return verifiable(plan, load_samples(context), answers=("paper",)).verify(msg, context)


@app.evaluate()
def evaluate(msg: Message, context: Context):
    """Evaluate the model on local data."""
    # Load the model and initialize it with the received weights
    model = Net()
    model.load_state_dict(msg.content["arrays"].to_torch_state_dict())

    # Load the data
    partition_id = context.node_config["partition-id"]
    num_partitions = context.node_config["num-partitions"]
    _, testloader = load_data(partition_id, num_partitions, context.run_config["batch-size"])

    # Call the evaluation function
    eval_loss, eval_acc = test_fn(model, testloader)

    # Construct and return reply Message
    metrics = {"eval_loss": eval_loss, "eval_acc": eval_acc, "num-examples": len(testloader.dataset)}
    return Message(content=RecordDict({"metrics": MetricRecord(metrics)}), reply_to=msg)
