"""A federation of real processes, one script for each role: ``authority``, ``superlink``, ``supernode``, ``run``."""
