"""How the cluster is seen from outside: metrics (`metrics`), traces (`tracing`), logs (`logs`), and the request
ids that tie them together (`requests`). `process` starts them in a server."""
