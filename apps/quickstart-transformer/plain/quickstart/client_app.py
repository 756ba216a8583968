"""quickstart: A Flower / transformer app."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from quickstart.task import Net, load_data
from quickstart.task import train as train_fn

# Flower ClientApp
app = ClientApp()


@app.train()
def train(msg: Message, context: Context):
    """Train the model on local data."""
    # Load the model and initialize it with the received weights
    model = Net()
    model.load_state_dict(msg.content["arrays"].to_torch_state_dict())

    # Load the data
    input_ids, labels = load_data(context.node_config["partition-id"], context.node_config["num-partitions"])

    # Call the training function
    config = context.run_config
    train_fn(model, input_ids, labels, config["local-epochs"], config["batch-size"], config["lr"])

    # Construct and return reply Message
    metrics = MetricRecord({"num-examples": len(labels)})
    content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics})
    return Message(content=content, reply_to=msg)
