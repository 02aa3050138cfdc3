"""Text encoders that are trained, too: they encode as ever, learn, and load elsewhere."""

from dataclasses import replace

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from PIL import Image
from tiny_pipeline import write_folder

from lora2_core.__main__ import main
from lora2_core.backbones.drawing import Drawing
from lora2_core.backbones.pipeline import load_folder
from lora2_core.config import TrainConfig
from lora2_core.diffusion.data import batches
from lora2_core.files import adapter_file, writing
from lora2_core.runs.packing import pack_result
from lora2_core.training.loop import Training, train

CPU = {"device": torch.device("cpu"), "dtype": torch.float32}
CONFIG = TrainConfig(
    r_init=3, r_max=8, steps=6, learning_rate=1e-2, rank_hold=0.0, dtype="fp32",
    text_encoders=True, lambda_e=1e-2,
)  # fmt: skip
T = torch.tensor([500])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("model") / "tiny")


def opened(folder, text_encoders=True):
    return load_folder(folder, **CPU, text_encoders=text_encoders)


def example(backbone, caption="a sks dog"):
    torch.manual_seed(0)
    return backbone.example(Image.effect_noise((64, 64), 60).convert("RGB"), caption)


def trained(backbone, config=CONFIG):
    examples = [example(backbone, caption) for caption in ("a sks dog", "a sks dog on grass")]
    order = batches(examples, batch_size=2, accumulation=1, seed=0)
    return train(backbone.denoiser, order, config)


def test_captions_are_encoded_as_the_pipeline_encodes_them(folder):
    backbone, plain = opened(folder), opened(folder, text_encoders=False)
    latent = torch.randn(1, 4, 8, 8)
    for caption in ("a sks dog", "", "word " * 100):
        mine, its = example(backbone, caption), example(plain, caption)
        assert "context" not in mine.conditioning
        one, other = (
            b.denoiser.predict(latent, T, e.conditioning)
            for b, e in ((backbone, mine), (plain, its))
        )
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_all_three_networks_learn_and_the_file_names_them_as_kohya_does(folder):
    result = trained(opened(folder))
    state = pack_result(result)
    stems = {key.split(".")[0] for key in state}
    heads = [f"lora_te{n}_text_model_encoder_layers_" for n in (1, 2)]
    for head, layers in ((heads[0], 2), (heads[1], 2)):
        found = {stem for stem in stems if stem.startswith(head)}
        assert found == {
            f"{head}{i}_self_attn_{part}_proj"
            for i in range(layers)
            for part in ("q", "k", "v", "out")
        }
    plain = trained(opened(folder, text_encoders=False), replace(CONFIG, text_encoders=False))
    assert {s for s in stems if s.startswith("lora_unet_")} == {
        key.split(".")[0] for key in pack_result(plain)
    }
    # the last layer but one is what the UNet sees of the first encoder
    moved = {name: bool(up.any()) for name, (_, up) in result.factors.items()}
    silent = {name for name, moves in moved.items() if not moves}
    assert silent == {name for name in moved if name.startswith("te1.text_model.encoder.layers.1.")}


def test_diffusers_draws_with_the_file_what_was_trained(folder, tmp_path):
    backbone = opened(folder)
    examples = [example(backbone)]
    training = Training(
        backbone.denoiser, batches(examples, batch_size=1, accumulation=1, seed=0), CONFIG
    )
    seen = []
    latent = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2))

    def note(info):
        if info.step == CONFIG.steps:
            with training.sampled():
                seen.append(backbone.denoiser.predict(latent, T, examples[0].conditioning))

    result = training.run(note)
    path = writing.write(pack_result(result), tmp_path / "a.safetensors", precision="fp32")
    pipeline = StableDiffusionXLPipeline.from_pretrained(folder)
    pipeline.load_lora_weights(tmp_path, weight_name=path.name)
    with torch.no_grad():
        context, _, pooled, _ = pipeline.encode_prompt(
            "a sks dog", do_classifier_free_guidance=False
        )
        added = {
            "text_embeds": pooled,
            "time_ids": torch.tensor([[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]]),
        }
        found = pipeline.unet(
            latent, T, encoder_hidden_states=context, added_cond_kwargs=added
        ).sample
    torch.testing.assert_close(found, seen[0], rtol=1e-3, atol=1e-4)
    before = opened(folder, text_encoders=False)
    plain = before.denoiser.predict(latent, T, example(before).conditioning)
    assert (found - plain).norm() > 10 * (found - seen[0]).norm()


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers
def test_previews_are_drawn_with_the_text_encoders_as_they_are(folder):
    """With the UNet's adapters alone at zero, they still change from step to step."""
    backbone = opened(folder)
    drawing = Drawing(prompts=("a sks dog",), negative=None, seed=0, side=64, steps=2, guidance=1.0)
    paint = backbone.painter(drawing)
    before = paint()[0].tobytes()
    backbone.forget_encoders()
    first = backbone.denoiser.network.te1
    layer = next(m for n, m in first.named_modules() if n.endswith("layers.0.mlp.fc2"))
    with torch.no_grad():
        layer.weight += 5.0
    assert paint()[0].tobytes() != before


def test_the_command_trains_them_and_the_demo_model_has_none(folder, tmp_path, capsys):
    images = tmp_path / "images"
    images.mkdir()
    Image.effect_noise((64, 64), 60).convert("RGB").save(images / "a.png")
    common = ["train", "--images", str(images), "--prompt", "a dog", "--text-encoders"]
    out = tmp_path / "dog.safetensors"
    settings = ["--resolution", "64", "--steps", "2", "--preset", "small", "--dtype", "fp32"]
    main([*common, "--model", str(folder), "--out", str(out), *settings])
    assert any(key.startswith("lora_te2_") for key in adapter_file.read(out))
    assert main([*common, "--model", "demo", "--out", str(tmp_path / "b.safetensors")]) != 0
    assert "text-encoders is set" in capsys.readouterr().err
