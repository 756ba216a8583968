"""``python -m flwr_faa.live DIR``: the same as ``faa-ledger serve DIR``."""

import typer

from flwr_faa.ledger_cli import serve

if __name__ == "__main__":
    typer.run(serve)
