"""Copies of pictures: what people do to pictures (`edits`), whether two pictures are copies (`checks`, and
`checking` for many pairs), and how far copies' codes lie from those of their originals (`measuring`, `plot`).
`pictures` reads them. `command` is the command line of `lookalike calibrate`."""
