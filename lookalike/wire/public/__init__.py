"""Messages of the public service, in both directions."""
