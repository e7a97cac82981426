"""The review of near-duplicates in a browser: a server on this machine (`server`) and its page (`page/`)."""
