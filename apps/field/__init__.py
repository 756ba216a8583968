"""A federation of real processes, one script a role: ``authority``, ``superlink``, ``supernode``, ``run``."""
