"""What the host's LATENT and CONDITIONING hold, and what of it training does not look at."""

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from ...lora2_core.errors import LoRA2Error

_REALISING = ("realize", "realise", "materialize", "resolve", "load")  # of an object that waits
_KINDS = {3: "sound", 5: "a video"}  # by the number of axes
# of SDXL's conditioning; the host reads them, too, as it encodes sizes
_READ = {
    "pooled_output", "width", "height", "crop_w", "crop_h", "target_width", "target_height",
}  # fmt: skip
_NEUTRAL = {
    "start_percent": 0.0, "end_percent": 1.0, "clip_start_percent": 0.0, "clip_end_percent": 1.0,
    "strength": 1.0, "mask_strength": 1.0, "set_area_to_bounds": False,
}  # fmt: skip
_NAMES = {
    "area": "an area", "mask": "a mask", "strength": "a strength", "mask_strength": "a strength",
    "start_percent": "a range of times", "end_percent": "a range of times",
    "clip_start_percent": "a range of times", "clip_end_percent": "a range of times",
    "set_area_to_bounds": "an area",
}  # fmt: skip


def samples_of(latent, what: str) -> Tensor:
    """[b, c, h, w] of a LATENT; what: where it comes from, for messages.

    One that is not there yet is realised. Raises LoRA2Error for one that cannot be, and for what is
    no picture.
    """
    samples = _held(latent)
    if samples is None:
        samples = _held(_realised(latent))
    if samples is None:
        raise LoRA2Error(
            f"{what} are a {type(latent).__name__} that holds no samples yet, and does not say how "
            "to get them; connect latents that are encoded, such as those of VAE Encode"
        )
    kind = _KINDS.get(getattr(samples, "ndim", 0))
    if latent_type(latent) == "audio":
        kind = "sound"
    if not isinstance(samples, Tensor):
        kind = f"several parts at once ({type(samples).__name__}), as a video with sound has them"
    if kind is not None:
        raise LoRA2Error(
            f"{what} are of {kind}{_shape(samples)}; SDXL learns from pictures, [b, 4, h, w]: "
            "encode pictures with this model's own VAE"
        )
    return samples


def latent_type(latent) -> str:
    """What the host notes of a latent's kind: "audio" for sound, mostly nothing."""
    found = latent.get("type", "") if isinstance(latent, Mapping) else ""
    return found if isinstance(found, str) else ""


def pairs_of(conditioning) -> list:
    """[(context, more), …] of a CONDITIONING; one that is not there yet is realised.

    Raises LoRA2Error for one that cannot be.
    """
    found = conditioning
    if not _are_pairs(found):
        found = _realised(conditioning)
    if not _are_pairs(found):
        raise LoRA2Error(
            f"the conditioning is a {type(conditioning).__name__} that holds no encoded text yet, "
            "and does not say how to get it; connect that of CLIP Text Encode"
        )
    return list(found)


def left_out(latents: Sequence, conditioning: Sequence, what: str) -> list[str]:
    """What training does not look at, in a sentence each."""
    told = []
    named = dict.fromkeys(_unread(conditioning))
    if named:
        told.append(
            f"the conditioning of {what} holds {', '.join(named)}, which training leaves out: a "
            "caption counts for the whole picture and at all noise levels"
        )
    if any(isinstance(one, Mapping) and one.get("noise_mask") is not None for one in latents):
        told.append(f"{what} hold a noise mask, which training leaves out: all of a picture counts")
    return told


def _unread(conditioning: Sequence) -> Iterator[str]:
    for cond in conditioning:
        for _, more in pairs_of(cond):
            for key, value in more.items():
                if key in _READ or value is None:
                    continue
                if key in _NEUTRAL and value == _NEUTRAL[key]:
                    continue
                yield _NAMES.get(key, key)


def _held(latent):
    """Its samples, or None; one that is lazy may make them when it is asked."""
    try:
        return latent["samples"]
    except (KeyError, TypeError, IndexError):
        return None


def _realised(waiting):
    """What an object becomes that says how; None if it does not."""
    for name in _REALISING:
        method = getattr(waiting, name, None)
        if callable(method):
            found = method()
            return waiting if found is None else found
    return None


def _are_pairs(found) -> bool:
    """A list of [tensor, dict]; one that is lazy may make it when it is gone through."""
    try:
        pairs = list(found)
    except TypeError:
        return False
    return bool(pairs) and all(
        isinstance(pair, list | tuple)
        and len(pair) == 2
        and isinstance(pair[0], Tensor)
        and isinstance(pair[1], Mapping)
        for pair in pairs
    )


def _shape(samples) -> str:
    shape = getattr(samples, "shape", None)
    return f" {tuple(shape)}" if isinstance(samples, Tensor) and shape is not None else ""
