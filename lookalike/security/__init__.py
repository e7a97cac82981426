"""Who may talk to whom: TLS between all parts (`tls`), API keys with roles (`keys`), the gates that servers put
before their methods (`gate`), and the files that these are read from, again whenever they change (`watched`)."""
