"""The papers' tables and figures: their cells, the command that runs them, and the pages of results."""
