"""How good the search results are on labelled image sets."""
