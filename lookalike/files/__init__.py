"""Files: which files a path names (`walk`) and what they are (`kinds`), replaced atomically (`atomic`), moved
without overwriting (`moves`), read again when they change (`watched`), and the errors of stores (`stores`)."""
