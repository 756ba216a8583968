"""What a run leaves behind, and who is writing it."""
