"""Codes learned from labels: targets and losses (`objectives`), the loop with its checkpoints (`loop`), the kinds
of training (`recipes`), and the command line (`command`)."""
