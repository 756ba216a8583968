"""What works with what: Flower's strategies and its example projects, alone and defended (docs/compatibility.md)."""
