"""What a curious server learns of its clients' images."""
