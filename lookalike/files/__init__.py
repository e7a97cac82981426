"""Files on the local disk: replaced atomically (`atomic`), and read again when they change (`watched`)."""
