"""How well copies of pictures are found among other pictures: `lookalike evaluate --task duplicates`.

`pictures` edits pictures and computes what is compared; `hashes` makes perceptual hashes; `separation` measures
recall at fixed rates of false pairs; `opinion` asks the second opinion of `lookalike dedup`; `run` compares the
methods; `cost` says beforehand what it takes; `command` prints and writes."""
