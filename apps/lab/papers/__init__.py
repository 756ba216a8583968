"""The papers' tables and figures: their cells, how these are run, and the pages made of the results."""
