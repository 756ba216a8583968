"""What a run leaves behind, and the lock that lets one run write it."""
