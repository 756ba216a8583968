"""The studies. Each measures one thing and writes it into the docs. The lab imports none of them."""
