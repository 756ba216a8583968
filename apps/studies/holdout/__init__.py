"""What a small clean data set on the server is worth, beside other rules that use one, and where it does harm."""
