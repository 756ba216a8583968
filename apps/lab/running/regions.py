"""A hierarchy of federations: groups of clients judged apart, each by its own ServerApp, and their means judged again.

A region is a client to the root: what it calls training is a round of its own federation, and its model is the mean of
the clients that its own strategy accepted. So the root is an ordinary federation with an ordinary strategy, and neither
of the two knows of the other. Nobody holds more replies than its own::

    root = LocalGrid(RegionApp(regions), len(regions))
    LoMar(...).start(root, arrays, num_rounds=50)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from apps.lab.running.local_grid import LocalGrid, run_server_app
from flwr_faa import FAADL
from flwr_faa.report import RoundReport


@dataclass(frozen=True, eq=False)
class Region:
    """A federation that answers as one client.

    Parameters
    ----------
    grid : LocalGrid
        Its clients.
    strategy : FAADL
        Who judges them, and keeps the reports; of its own, for it remembers.
    """

    grid: LocalGrid
    strategy: FAADL

    def train(self, number: int, arrays: ArrayRecord, config: ConfigRecord) -> tuple[ArrayRecord, RoundReport]:
        """Run one round as a ServerApp: send, receive, judge, average."""
        app, found = ServerApp(), list[ArrayRecord | None]()

        @app.main()
        def main(grid: Grid, context: Context) -> None:
            messages = self.strategy.configure_train(number, arrays, ConfigRecord(dict(config)), grid)
            mean, _ = self.strategy.aggregate_train(number, grid.send_and_receive(messages))
            found.append(mean)

        run_server_app(app, self.grid)
        report = self.strategy.reports[-1]
        if not report.accepted or found[0] is None:
            raise RuntimeError("expected a client that is accepted, got none in this region")
        return found[0], report


class RegionApp(ClientApp):
    """The ClientApp of the root's nodes, a region each.

    A region in which nobody is accepted fails its round, as a client that raises. It weighs as many examples as clients
    were accepted in it; the root's strategy caps that as it caps a client's.

    Parameters
    ----------
    regions : sequence of Region
        By partition.
    """

    def __init__(self, regions: Sequence[Region]) -> None:
        super().__init__()

        @self.train()
        def train(message: Message, context: Context) -> Message:
            (name, arrays), config = _only(message.content)
            number = int(str(config["server-round"]))
            mean, report = regions[int(context.node_config["partition-id"])].train(number, arrays, config)
            model = ArrayRecord({key: Array(mean[key].numpy()) for key in arrays})
            metrics = MetricRecord({"num-examples": len(report.accepted)})
            return Message(RecordDict({name: model, "metrics": metrics}), reply_to=message)


def _only(content: RecordDict) -> tuple[tuple[str, ArrayRecord], ConfigRecord]:
    """The model of a request, with its name, and the settings."""
    return next(iter(content.array_records.items())), next(iter(content.config_records.values()))
