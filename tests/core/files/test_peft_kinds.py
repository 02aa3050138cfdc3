"""LoHa, LoKr and DoRA as PEFT itself writes them."""

import peft
import pytest
import torch
from torch import nn

from lora2_core.files.adapter_file import LoraState, components
from lora2_core.files.beside import MAGNITUDE
from lora2_core.files.stored import contents, seen
from lora2_core.rank_tools import Cut, compress, open_adapter


class Layers(nn.Module):
    def __init__(self):
        super().__init__()
        self.to_q = nn.Linear(12, 16)
        self.conv = nn.Conv2d(8, 12, 3)

    def forward(self, x):
        return self.to_q(x)


CONFIGS = {
    "LoHa": (peft.LoHaConfig, {"r": 2, "alpha": 2}),
    "LoHa in Tucker form": (
        peft.LoHaConfig, {"r": 2, "alpha": 2, "use_effective_conv2d": True},
    ),
    "LoKr": (peft.LoKrConfig, {"r": 2, "alpha": 2, "decompose_factor": 4}),
    "LoKr in Tucker form": (
        peft.LoKrConfig, {"r": 2, "alpha": 2, "use_effective_conv2d": True},
    ),
    "LoKr of factors alone": (
        peft.LoKrConfig, {"r": 1, "alpha": 1, "decompose_both": True},
    ),
}  # fmt: skip


def randomised(config, **settings):
    torch.manual_seed(0)
    model = peft.get_peft_model(Layers(), config(target_modules=["to_q", "conv"], **settings))
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter)
    return model, LoraState(peft.get_peft_model_state_dict(model))


@pytest.mark.parametrize("kind", CONFIGS)
def test_another_form_has_pefts_update(kind):
    config, settings = CONFIGS[kind]
    model, state = randomised(config, **settings)
    found = components(state)
    assert len(found) == 2
    for name, factors in found.items():
        layer = model.get_submodule(name)
        expected = layer.get_delta_weight("default").detach().flatten(1)
        assert torch.allclose(factors.delta().flatten(1), expected, atol=1e-4)


def test_the_magnitudes_of_a_dora_go_along():
    _, state = randomised(peft.LoraConfig, r=2, lora_alpha=2, use_dora=True)
    extras = contents(seen(state)).extras
    assert [extra.kind for extra in extras] == [MAGNITUDE, MAGNITUDE]
    found = compress(open_adapter(state), Cut(rank=2)).state
    for extra in extras:
        layer = "lora_unet_" + extra.name.rpartition(".")[2]
        assert torch.equal(found[f"{layer}.dora_scale"].flatten(), state[extra.key].flatten())
        assert found[f"{layer}.dora_scale"].dim() == found[f"{layer}.lora_up.weight"].dim()
        assert len(found[f"{layer}.dora_scale"]) == len(found[f"{layer}.lora_up.weight"])
