"""The paper's own mathematics."""
