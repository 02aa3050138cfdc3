"""What trained the demo model, stage by stage; each can be stopped and taken up again.

python -m lora2_core.demo_model.recipe --work DIR pictures     draw the training set
python -m lora2_core.demo_model.recipe --work DIR autoencoder  --minutes 45
python -m lora2_core.demo_model.recipe --work DIR latents      encode the training set
python -m lora2_core.demo_model.recipe --work DIR denoiser     --minutes 120
python -m lora2_core.demo_model.recipe --work DIR decoder      --minutes 30, to sharpen pictures
python -m lora2_core.demo_model.recipe --work DIR export FILE
python -m lora2_core.demo_model.recipe --work DIR adopt FILE   go on from a checkpoint's weights
python -m lora2_core.demo_model.recipe --work DIR judge        train a classifier
python -m lora2_core.demo_model.recipe --work DIR gate FILE    what it reads in the model's pictures
"""
