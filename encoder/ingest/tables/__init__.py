"""Files of rows: which formats there are and how each is read (`formats`, and a module per format), what a table
is (`table`), and which of its columns are the key, the image, the code and so on (`naming`)."""
