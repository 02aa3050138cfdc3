"""What training tells the network at each noise level, beside what sampling tells it there."""

import sys

import torch


class ToldTimes:
    """The times and inputs that the network gets, and what it would have to give for x_0."""

    RETURN_TYPES, FUNCTION, OUTPUT_NODE, CATEGORY = (), "tell", True, "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "dtype": (["fp32", "bf16", "fp16"],)}}

    def tell(self, model, dtype):
        [host] = [m for name, m in sys.modules.items() if name.endswith("nodes.host.model")]
        host.check_trainable(model)
        generator = torch.Generator().manual_seed(0)
        picture, noise = torch.randn(2, 1, 4, 8, 8, generator=generator)
        told = []
        with host.trainable(model, dtype) as unet, torch.no_grad():
            sampling = model.model.model_sampling
            for level in (0, unet.timesteps // 2, unet.timesteps - 1):
                t = torch.tensor([level])
                sigma = sampling.sigmas[level].reshape(1)
                noisy, target = unet.corrupt(picture, noise, t)
                with called(unet.network) as calls:
                    unet.predict(noisy, t, EMPTY)
                    model.model.apply_model(
                        noisy, sigma, c_crossattn=EMPTY["c_crossattn"], y=EMPTY["y"]
                    )
                (x, time), (sampled, sampled_time) = calls
                back = sampling.calculate_denoised(sigma, target, noisy)
                apart = [float((x - sampled).abs().max()), float((back - picture).abs().max())]
                numbers = [float(time), float(sampled_time), *apart]
                told.append(" ".join(f"{n:.6g}" for n in numbers) + f" {bool(x.isfinite().all())}")
        return {"ui": {"text": [f"{unet.timesteps} {unet.predicts_v}", *told]}}


EMPTY = {"c_crossattn": torch.zeros(1, 77, 2048), "y": torch.zeros(1, 2816)}


class called:
    """What the network is called with, without its being computed."""

    def __init__(self, network):
        self.network = network

    def __enter__(self):
        calls = []

        def forward(x, timesteps=None, *args, **kwargs):
            calls.append((x.float(), timesteps))
            return torch.zeros_like(x)

        self.network.forward = forward
        return calls

    def __exit__(self, *_):
        del self.network.forward


NODE_CLASS_MAPPINGS = {"ToldTimes": ToldTimes}
