"""The batch job.

Its input is images in folders (`walk`, `sources`, `descriptions`) and rows of tables (`tables`, `rows`, `codes`),
listed by `listing` and filtered by `selection`. Images are encoded by Ray Data (`run_images`, `job`, `pipeline`,
`images`, `workers`); codes and features go straight to the cluster (`run_codes`, `precomputed`, `builder`). A dry
run of images only decodes them (`dry_run`). Records are written to a collection (`target`) over a stream
(`sending`, `rate`) and counted (`stats`, `metrics`); those that are not stored become dead letters
(`dead_letters`). `sync` finds records whose files are gone. `command` and `watch` are the command lines."""
