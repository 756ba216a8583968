"""quickstart: A Flower / scikit-learn app."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from quickstart.task import get_params, load_data, new_model, set_params
from quickstart.task import train as train_fn

# Flower ClientApp
app = ClientApp()


@app.train()
def train(msg: Message, context: Context):
    """Train the model on local data."""
    # Load the model and initialize it with the received weights
    model = new_model(context.run_config["local-epochs"])
    set_params(model, msg.content["arrays"].to_numpy_ndarrays())

    # Load the data
    images, labels = load_data(context.node_config["partition-id"], context.node_config["num-partitions"])

    # Call the training function
    train_fn(model, images, labels)

    # Construct and return reply Message
    metrics = MetricRecord({"num-examples": len(labels)})
    return Message(content=RecordDict({"arrays": ArrayRecord(get_params(model)), "metrics": metrics}), reply_to=msg)
