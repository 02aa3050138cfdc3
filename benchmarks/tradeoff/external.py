"""LoKr of LyCORIS and AdaLoRA of PEFT, on the same batches and the same loss."""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from lora2_core.config import TrainConfig
from lora2_core.diffusion.data import Batch
from lora2_core.diffusion.denoiser import Denoiser
from lora2_core.errors import LoRA2Error
from lora2_core.layers.inject import find_layers
from lora2_core.training.forward import forward
from lora2_core.training.level_weights import level_weights

from .cutting import Factors, parameters

LOKR_FACTOR = 4  # 128×128 as 4×4 ⊗ 32×32: 125 thousand numbers in all, as many as rank 4 has
ADALORA = {"init_r": 12, "target_r": 8, "lora_alpha": 8}  # the library's own
ADALORA_SCHEDULE = (0.1, 0.5, 0.01)  # shares of the run: before budgeting, after it, between cuts
SETTINGS = {  # of each library, for the stamp
    "lokr": {"factor": LOKR_FACTOR},
    "adalora": {**ADALORA, "schedule": list(ADALORA_SCHEDULE)},
}
_RELATIVE = 1e-6  # of the largest: a singular value below it is rounding
Order = Iterator[list[Batch]]


class Diverged(LoRA2Error):
    """The loss became NaN or infinite."""


def lokr(denoiser: Denoiser, order: Order, config: TrainConfig) -> tuple[Factors, int]:
    """(the update as factors, numbers in LoKr's own file); the network is left as it was.

    W₁ ⊗ W₂ in full, without low-rank parts, for all layers of config.targets. Raises Diverged.
    """
    from lycoris.modules.lokr import LokrModule

    torch.manual_seed(config.seed)
    layers = find_layers(denoiser.network, config.targets)
    modules = {
        name: LokrModule(
            name.replace(".", "_"), layer, 1.0, lora_dim=1, alpha=1.0, factor=LOKR_FACTOR,
            full_matrix=True,
        )
        for name, layer in layers.items()
    }  # fmt: skip
    trainable = [one for module in modules.values() for one in module.parameters()]
    with ExitStack() as stack:
        for name, module in modules.items():
            module.apply_to()
            stack.callback(vars(layers[name]).pop, "forward")  # what restore leaves there
            stack.callback(module.restore)
        _fit(denoiser, order, config, trainable)
    with torch.no_grad():
        found = {
            denoiser.module_name(name): _split(module.get_diff_weight()[0])
            for name, module in modules.items()
        }
    return _there(found), sum(one.numel() for one in trainable)


def adalora(denoiser: Denoiser, order: Order, config: TrainConfig) -> tuple[Factors, int]:
    """(the update as factors, numbers in them); the network is left as it was. Raises Diverged."""
    from peft.tuners.adalora import AdaLoraConfig, AdaLoraModel

    torch.manual_seed(config.seed)
    network = denoiser.network
    before, after, between = ADALORA_SCHEDULE
    asked = AdaLoraConfig(
        **ADALORA,
        target_modules=list(find_layers(network, config.targets)),
        total_step=config.steps,
        tinit=int(before * config.steps),
        tfinal=int(after * config.steps),
        deltaT=max(1, int(between * config.steps)),
    )
    own = dict(vars(network))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = AdaLoraModel(network, asked, "default")
    try:
        trainable = [one for one in network.parameters() if one.requires_grad]
        _fit(
            denoiser, order, config, trainable,
            penalty=lambda: asked.orth_reg_weight * _orthogonality(network),
            after=wrapped.update_and_allocate,
        )  # fmt: skip
        with torch.no_grad():
            found = {
                denoiser.module_name(name): _folded(module)
                for name, module in network.named_modules()
                if hasattr(module, "lora_E")
            }
    finally:
        wrapped.unload()
        for name in vars(network).keys() - own.keys():
            delattr(network, name)
    found = _there(found)
    return found, parameters(found)


LIBRARIES = {"lokr": lokr, "adalora": adalora}


def _fit(
    denoiser: Denoiser,
    order: Order,
    config: TrainConfig,
    trainable: Sequence[nn.Parameter],
    penalty: Callable[[], Tensor] | None = None,
    after: Callable[[int], None] | None = None,
) -> None:
    """The loop of training.loop without what is ours; after(step) comes before gradients go."""
    optimizer = torch.optim.AdamW(
        trainable, lr=config.learning_rate, weight_decay=config.weight_decay
    )
    generator = torch.Generator().manual_seed(config.seed)
    weights = level_weights(config, denoiser.timesteps)
    for step in range(config.steps):
        for batch in next(order):
            loss, _ = forward(denoiser, batch, config, None, generator, weights)
            (batch.weight * loss).backward()
            if not math.isfinite(value := loss.item()):
                raise Diverged(f"the loss became {value} at step {step + 1} of {config.steps}")
        if penalty is not None:
            penalty().backward()
        nn.utils.clip_grad_norm_(trainable, config.max_grad_norm)
        optimizer.step()
        if after is not None:
            after(step)
        optimizer.zero_grad()


def _orthogonality(network: nn.Module) -> Tensor:
    """Mean of ‖P Pᵀ − I‖ over all A and Bᵀ, as AdaLoraModel.forward adds it to a model's own
    loss [AdaLoRA, eq. 4]."""
    found = []
    for module in network.modules():
        if hasattr(module, "lora_E"):
            for p in (module.lora_A["default"], module.lora_B["default"].t()):
                found.append((p @ p.t() - torch.eye(len(p))).norm())
    return torch.stack(found).mean()


def _folded(module: nn.Module) -> tuple[Tensor, Tensor]:
    """(down [r, n], up [m, r]) of the directions that the budget left."""
    values = module.lora_E["default"]
    kept = values.flatten() != 0
    scale = module.scaling["default"] / (module.ranknum["default"] + 1e-5)
    down = module.lora_A["default"] * values * scale
    return down[kept].clone(), module.lora_B["default"][:, kept].clone()


def _split(change: Tensor) -> tuple[Tensor, Tensor]:
    """(down [r, n], up [m, r]) of the rank that it has."""
    u, sigma, vt = torch.linalg.svd(change.flatten(1), full_matrices=False)
    rank = int((sigma > _RELATIVE * sigma[0]).sum())
    roots = sigma[:rank].sqrt()
    return roots[:, None] * vt[:rank], u[:, :rank] * roots


def _there(found: Factors) -> Factors:
    return {name: (down, up) for name, (down, up) in found.items() if len(down)}
