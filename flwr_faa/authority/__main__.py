"""``python -m flwr_faa.authority``, the same as ``faa-authority``."""

from __future__ import annotations

from flwr_faa.authority.cli import main

main()
