"""Who may call what: API keys with roles (`keys`), and the check in front of every method (`authorizer`)."""
