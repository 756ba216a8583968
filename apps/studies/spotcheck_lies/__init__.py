"""How often each lie to the spot check is found."""
