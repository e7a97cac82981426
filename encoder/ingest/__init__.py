"""The batch job. What there is: images of folders (`sources`) and rows of tables (`tables`, `rows`, `coco`),
together a list (`listing`), of which some are taken (`choice`). Images are encoded by Ray Data (`job`, `pipeline`,
`pictures`); ready codes and features go straight to the cluster (`ready`); a dry run does neither (`trial`).
Beside them how records are sent (`sending`, `rate`) and accounted for (`account`, `letters`, `meters`). `command`
is what people call."""
