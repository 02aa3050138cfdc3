"""What adaptive ranks are worth: LoRA² beside fixed ranks and other adaptive methods.

On the bundled demo model, for tasks that need more and more rank, made of the subjects of a file:

python -m benchmarks.tradeoff run        train and measure
python -m benchmarks.tradeoff pictures   what the adapters of the largest task draw, judged
python -m benchmarks.tradeoff table      what came out: Markdown, and a picture (matplotlib)
python -m benchmarks.tradeoff judges     how those that read the pictures do on unseen renders

Fidelity is the denoising loss at fixed noise and times on renders that were not trained on,
forgetting that on scenes that the task is not about, both in per cent of the base's loss; lower is
better for both. Each contestant's learning rate is searched on a grid at the first seed, until the
best has a worse one on either side; other seeds get the best and its neighbours. Each run is
measured whole and cut, by effect and by σ, so that contestants can be compared at equal sizes.

Results go to runs.jsonl in --results, one line a run. Every stage goes on where it stopped, and
--minutes stops it cleanly. Results of other weights, settings or subjects stay in the file, are
made again, and the table leaves them out. LoKr takes lycoris-lora, AdaLoRA peft (both are in
tests/requirements.txt).
"""
