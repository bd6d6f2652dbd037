"""Who did what, when and why: hash-chained events and the tables folded from them."""
