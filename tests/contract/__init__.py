"""What a client may rely on, whatever stands behind the address: the same tests in every world."""
