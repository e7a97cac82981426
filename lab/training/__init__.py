"""Codes learned from labels: targets and losses (`objectives`), the loop with its checkpoints (`loop`), and what
is trained on what (`recipes`, `command`)."""
