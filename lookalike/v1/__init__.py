"""Generated from protos/lookalike/v1 by `make protos`. Not edited by hand."""
