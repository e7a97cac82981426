"""Access control: API keys with roles (`keys`), and the check before every method (`authorizer`)."""
