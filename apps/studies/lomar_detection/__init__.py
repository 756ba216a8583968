"""How well LoMar tells attackers from honest clients, attack by attack."""
