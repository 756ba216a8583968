"""Ways to run a scenario: in this process, with or without Flower, and as real processes."""
