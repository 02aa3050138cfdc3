"""What a model predicts, by its own marks or by what is asked for."""

from dataclasses import dataclass

from diffusers import StableDiffusionXLPipeline
from diffusers.schedulers import EulerDiscreteScheduler

from ..errors import LoRA2Error

PREDICTIONS = ("auto", "epsilon", "v")
_NAMES = {"epsilon": "epsilon", "v": "v_prediction"}  # ours → diffusers'
_EDM = {"edm_mean": "EDM", "edm_vpred.sigma_max": "EDM with v-prediction"}


@dataclass(frozen=True)
class Asked:
    """prediction: of PREDICTIONS. zero_terminal_snr: None leaves it to the model."""

    prediction: str = "auto"
    zero_terminal_snr: bool | None = None


AUTO = Asked()


def of_marks(names) -> dict:
    """Arguments of a scheduler, by the names of a checkpoint's tensors. As in ComfyUI, `ztsnr`
    counts beside `v_pred` alone. Raises LoRA2Error for marks of another schedule.
    """
    for mark, kind in _EDM.items():
        if mark in names:
            raise LoRA2Error(
                f"the checkpoint samples by {kind} (its mark is {mark}), which cannot be trained; "
                "load one with ε- or v-prediction"
            )
    v = "v_pred" in names
    return settings(v, v and "ztsnr" in names)


def settings(v: bool, zero_terminal_snr: bool) -> dict:
    """Arguments of a scheduler. A model with noise alone at its last level must be sampled from
    there.
    """
    found = {"prediction_type": _NAMES["v" if v else "epsilon"]}
    if zero_terminal_snr:
        found |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return found


def apply(asked: Asked, pipeline: StableDiffusionXLPipeline) -> None:
    """Has the scheduler, by which it is trained and sampled, follow what is asked for."""
    config = pipeline.scheduler.config
    kind, zero = config.get("prediction_type", "epsilon"), config.get("rescale_betas_zero_snr")
    now = kind, bool(zero)
    kind = _NAMES.get(asked.prediction, kind)
    if asked.zero_terminal_snr is not None:
        zero = asked.zero_terminal_snr
    elif asked.prediction == "epsilon":
        zero = False
    if (kind, bool(zero)) != now:
        changed = dict(config) | {"rescale_betas_zero_snr": False}
        changed |= settings(kind == _NAMES["v"], bool(zero)) | {"prediction_type": kind}
        pipeline.scheduler = EulerDiscreteScheduler.from_config(changed)


def check(config) -> tuple[bool, bool]:
    """(predicts v, zero terminal SNR) of a scheduler; raises LoRA2Error for another kind."""
    kind = config.get("prediction_type", "epsilon")
    if kind not in _NAMES.values():
        raise LoRA2Error(
            f"the scheduler has prediction_type {kind}; only epsilon and v_prediction can be "
            "trained (--prediction says which it is, if that is wrong)"
        )
    v, zero = kind == _NAMES["v"], bool(config.get("rescale_betas_zero_snr"))
    if zero and not v:
        raise LoRA2Error(
            "the schedule ends at zero SNR (rescale_betas_zero_snr True), where a prediction of ε "
            "tells nothing of the picture; if the model predicts v, add --prediction v, else "
            "--no-zero-terminal-snr"
        )
    return v, zero
