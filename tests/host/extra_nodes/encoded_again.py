"""What training reads of a text, beside what the host has encoded."""

import sys


class EncodedAgain:
    """How far the text that training encodes lies from what the host has encoded."""

    RETURN_TYPES, FUNCTION, OUTPUT_NODE, CATEGORY = (), "compare", True, "test"

    @classmethod
    def INPUT_TYPES(cls):
        kinds = {"model": "MODEL", "clip": "CLIP", "latent": "LATENT", "positive": "CONDITIONING"}
        return {"required": {n: (k,) for n, k in kinds.items()} | {"text": ("STRING", {})}}

    def compare(self, model, clip, latent, positive, text):
        loaded = {name: module for name, module in sys.modules.items() if "lora2" in name}
        host, texts = (
            next(module for name, module in loaded.items() if name.endswith(f"nodes.host.{last}"))
            for last in ("model", "text")
        )
        examples = host.examples(model, [latent], [positive], "latents")
        [told] = texts.with_captions(examples, clip, [text], "images")
        with host.trainable(model, "fp32") as unet, texts.text_trainable(unet, clip) as both:
            again = both._encode(told.conditioning)
        apart = {
            name: float((again[name] - value).norm() / value.norm())
            for name, value in examples[0].conditioning.items()
        }
        return {"ui": {"text": [f"{k} {v:.2e} {tuple(again[k].shape)}" for k, v in apart.items()]}}


NODE_CLASS_MAPPINGS = {"EncodedAgain": EncodedAgain}
