"""What clients send: read, checked, averaged."""
