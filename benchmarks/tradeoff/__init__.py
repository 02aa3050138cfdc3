"""Does LoRA² reach the fidelity of the best fixed rank at a fraction of its bytes, and forget less?

On the bundled demo model, for every subject of a file and every seed:

python -m benchmarks.tradeoff --work DIR judges   train what reads the pictures (once)
python -m benchmarks.tradeoff --work DIR tune     learning rates and LoRA² choices, on one subject
python -m benchmarks.tradeoff --work DIR run      train and measure; one JSON a run
python -m benchmarks.tradeoff table               what came out: Markdown, and a Pareto picture

DIR holds the judges alone; it may be a work folder of lora2_core.demo_model.recipe, whose pictures
and judge are then used. Results go to benchmarks/results/tradeoff. Every stage goes on where it
stopped, and `--minutes` stops it cleanly. Results of other weights, judges, settings or subjects
are made again, and the table leaves them out. The picture needs matplotlib, the rest does not.

The primary metric is the denoising loss at fixed noise and times, on renders of the subject in
places that were not trained on (fidelity) and on scenes without it (forgetting), both relative to
the base model. The second are pictures drawn from equal seeds, read by networks that were trained
on the renderer, beside real renders and the base. Intervals are Student's, over subjects, after
the seeds of a subject are averaged: they speak of subjects that were not tried.
"""
