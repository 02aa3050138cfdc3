"""Does LoRA² reach the fidelity of the best fixed rank at a fraction of its bytes, and forget less?

On the bundled demo model, for every subject of a file and every seed:

python -m benchmarks.tradeoff tune     learning rates and LoRA² choices, on one subject
python -m benchmarks.tradeoff run      train and measure; one JSON a run
python -m benchmarks.tradeoff table    what came out: Markdown, and a Pareto picture
python -m benchmarks.tradeoff judges   how those that read the pictures do on unseen renders

The judges come with the code; where --judges DIR has none, the last command trains them, with the
pictures of a work folder of lora2_core.demo_model.recipe. Results go to
benchmarks/results/tradeoff. Every stage goes on where it stopped, and `--minutes` stops it cleanly.
Results of other weights, judges, settings or subjects are made again, and the table leaves them
out. The picture needs matplotlib, the rest does not.

The primary metric is the denoising loss at fixed noise and times, on renders of the subject in
places that were not trained on (fidelity) and on scenes without it (forgetting), both relative to
the base model. The second are pictures drawn from equal seeds, read by networks that were trained
on the renderer, beside real renders and the base. Intervals are Student's, over subjects, after
the seeds of a subject are averaged: they speak of subjects that were not tried.
"""
