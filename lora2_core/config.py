"""Every choice of a training run, with its default and where the default comes from."""

from dataclasses import dataclass, fields, replace

from .errors import LoRA2Error

METHODS = ("lora2", "ac_lora", "lora")
AC_MODES = ("product", "paper")
TARGETS = ("attention", "attention+feed_forward", "all_linear", "all_linear+conv")
DTYPES = ("bf16", "fp16", "fp32")
OPTIMIZERS = ("adamw", "adamw8bit", "adafactor", "prodigy")
LR_SCHEDULERS = ("constant", "linear", "cosine", "cosine_with_restarts", "polynomial")
TIMESTEP_BIASES = ("none", "earlier", "later", "range")
OFFLOADS = ("auto", "none", "all")
IMPORTANCES = ("flat", "unit_energy", "printed")
STARTS = ("gradient", "even")
MAX_RANK = 512
QUANTILE = 0.9  # q: share of the mass that the kept rows hold [LoRA², section 3.2]
BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}  # of one number in a file

# [LoRA², section 4]: `paper` is the printed setting; the smaller two are this project's.
PRESETS = {
    "balanced": {"r_init": 16, "r_max": 128},
    "paper": {
        "r_init": 512,
        "r_max": 512,
        "importance": "printed",
        "init": "printed",
        "start": "even",
        "lambda_e": 1e-4,
        "lr_scheduler": "constant",
        "rank_term": "nu",
        "rank_rate": 10.0,
        "rank_hold": 0.0,
        "effect_share": 1.0,
    },
    "small": {"r_init": 4, "r_max": 64},
}


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one run. Invalid values raise LoRA2Error, which names the value."""

    method: str = "lora2"
    targets: str = "attention"  # to_q, to_k, to_v, to_out of every attention [LoRA², 4]
    steps: int = 500  # optimiser steps; the paper's SDXL figure (KOALA 800, plain LoRA 1000)
    # of A and B. The paper's 5e-5 goes with its A, √n times as large as "fan_in"; this is what
    # training scripts of plain LoRA start from
    learning_rate: float = 1e-4
    weight_decay: float = 0.01  # of A and B, decoupled; diffusers' DreamBooth default
    max_grad_norm: float = 1.0  # of A and B together; ν is clipped apart, or it would eat the norm
    r_init: int = 16  # mean rank that lora2 starts from; the others' rank in every component
    r_max: int = 128  # no component has more
    # ours, of lora2: ranks and directions that it starts from by the gradient of the untrained
    # model (effect/start.py), with as many rows in all as r_init gives; "even": r_init for all
    start: str = "gradient"
    # of the steps, so many batches is the gradient taken of; at least 16, of as many steps
    start_share: float = 0.04
    r_target: float = 1.0  # where the regulariser pulls ν; "many collapse to rank 1" [LoRA², 5]
    lambda_r: float = 1e-4  # weight of the rank term [LoRA², 4]; with "rows", what 100 rows cost
    rank_term: str = "rows"  # ours, |t − t_target| in rows; "nu": |ν − ν_target| [eq. 12]
    lambda_e: float = 0.0  # weight of the cross-attention entropy; printed: 1e-4 [LoRA², 4]
    regulariser: str = "sum"  # over components, as printed [eq. 12]; "mean" divides by their count
    quantile: float = QUANTILE
    rank_rate: float = 30.0  # learning rate of ρ times steps; at 5e-5 ν could hardly move
    rank_hold: float = 0.1  # share of the run before ν may move: B is near zero, and ν blind
    rank_freeze: float = 0.1  # share at the end with ranks fixed, so that A and B settle
    # ours, no Λ, and no ν: all rows learn alike; "unit_energy": Λ of one norm for every ν;
    # "printed": Λ = f [eq. 10]
    importance: str = "flat"
    init: str = "fan_in"  # ours, the std by √n; "printed": A ~ N(0, 2/Σf²) [3.3.1]
    growth: str = "zero"  # new columns of B; "random" is the paper's word but kicks the output
    # ours, of lora2: of the effect on the loss (effect/measure.py), what the finished file keeps;
    # 1 keeps every row
    effect_share: float = 0.999
    # size of the finished file at most, in 10⁶ bytes; 0: none. The rows of most effect fill it;
    # with effect_share 1 ranks are held to it while they are learned, in place of λ_r
    budget_mb: float = 0.0
    budget_precision: str = "fp16"  # what the file is to be saved in
    ac_mode: str = "product"  # AC-LoRA: what is cut; "paper" cuts A and B apart
    ac_period: float = 0.1  # AC-LoRA: share of the run between restarts; 10 of 100 epochs [AC]
    shrink_patience: int = 50  # steps at a quarter of the capacity before memory is given back
    entropy_queries: int = 256  # random queries a layer for the entropy; unbiased and cheap
    batch_size: int = 1  # [LoRA², 4]
    gradient_accumulation: int = 1
    dtype: str = "bf16"  # of autocast; fp16 adds a loss scaler, fp32 switches autocast off
    gradient_checkpointing: bool = True  # [LoRA², 4]
    offload: str = "auto"  # blocks whose weights wait in main memory: as many as it takes to fit
    seed: int = 0
    optimizer: str = "adamw"  # of A and B; ν is always moved by AdamW
    lr_scheduler: str = "cosine"  # of A and B's rate, diffusers' names; ν keeps its own
    lr_warmup_steps: int = 0  # steps over which A and B's rate rises from 0
    lr_cycles: int = 1  # cosine_with_restarts: how often the rate starts anew
    lr_power: float = 1.0  # polynomial: exponent; 1 is a straight line
    min_snr_gamma: float = 0.0  # γ of min-SNR weighting (arXiv 2303.09556: 5); 0 switches it off
    noise_offset: float = 0.0  # size of the noise that a whole channel shares; the trade: 0.05
    timestep_bias: str = "none"  # which noise levels are drawn more often than the others
    timestep_bias_multiplier: float = 2.0  # how much more often; diffusers' 1 would do nothing
    timestep_bias_portion: float = 0.25  # share of the levels that earlier and later favour
    timestep_bias_begin: int = 0  # first level that range favours
    timestep_bias_end: int = 1000  # the level after its last
    caption_dropout: float = 0.0  # chance that an image comes with an empty caption
    repeats: int = 1  # times that a pass over the set holds every image (not those of the prior)
    horizontal_flip: bool = False  # the set holds every picture's mirror image, too
    text_encoders: bool = False  # their attention is adapted, too
    trigger_word: str = ""  # put before every caption that lacks it
    ema_decay: float = 0.0  # of the adapter's moving average, which is then saved; 0: none

    def __post_init__(self):
        _one_of("method", self.method, METHODS)
        _one_of("targets", self.targets, TARGETS)
        _one_of("dtype", self.dtype, DTYPES)
        _one_of("ac_mode", self.ac_mode, AC_MODES)
        _one_of("regulariser", self.regulariser, ("sum", "mean"))
        _one_of("rank_term", self.rank_term, ("rows", "nu"))
        _one_of("importance", self.importance, IMPORTANCES)
        _one_of("start", self.start, STARTS)
        _one_of("init", self.init, ("printed", "fan_in"))
        _one_of("budget_precision", self.budget_precision, tuple(BYTES))
        _one_of("growth", self.growth, ("zero", "random"))
        _one_of("offload", self.offload, OFFLOADS)
        if self.offload == "all" and not self.gradient_checkpointing:
            raise LoRA2Error(
                "offload is 'all', but gradient_checkpointing is off, and every weight is needed "
                "until its backward pass; switch it on, or set offload to 'none'"
            )
        for name in ("steps", "batch_size", "gradient_accumulation", "entropy_queries", "r_init"):
            _at_least(name, getattr(self, name), 1)
        for name in ("lambda_r", "lambda_e", "weight_decay", "shrink_patience", "rank_rate"):
            _at_least(name, getattr(self, name), 0)
        _at_least("budget_mb", self.budget_mb, 0)
        for name in ("learning_rate", "max_grad_norm", "r_target"):
            if not getattr(self, name) > 0:
                raise LoRA2Error(f"{name} is {getattr(self, name)}; it must be above 0")
        for name in ("rank_hold", "rank_freeze", "start_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise LoRA2Error(f"{name} is {getattr(self, name)}; it is a share from 0 to 1")
        if not 0 < self.ac_period <= 1:
            raise LoRA2Error(f"ac_period is {self.ac_period}; it is a share above 0, at most 1")
        if not 0 < self.effect_share <= 1:
            raise LoRA2Error(
                f"effect_share is {self.effect_share}; it is a share above 0, at most 1, which "
                "switches the cut off"
            )
        if not 0 < self.quantile < 1:
            raise LoRA2Error(f"quantile is {self.quantile}; choose a share between 0 and 1")
        self._check_options()
        if self.budget_mb and self.method != "lora2":
            raise LoRA2Error(
                f"budget_mb is {self.budget_mb:g}, but {self.method} does not learn its ranks by "
                "size; choose the method lora2, or set budget_mb to 0"
            )
        if self.method == "ac_lora" and self.rank_freeze >= 1:
            raise LoRA2Error(
                "the ranks are to stay fixed (rank_freeze is 1), but AC-LoRA measures them at the "
                "end; choose the method lora2 or lora"
            )
        if self.r_max > MAX_RANK:
            raise LoRA2Error(f"r_max is {self.r_max}; the largest supported rank is {MAX_RANK}")
        if self.r_init > self.r_max:
            raise LoRA2Error(
                f"r_init is {self.r_init} but r_max is {self.r_max}; "
                "raise r_max or start from a lower rank"
            )

    def _check_options(self) -> None:
        _one_of("optimizer", self.optimizer, OPTIMIZERS)
        _one_of("lr_scheduler", self.lr_scheduler, LR_SCHEDULERS)
        _one_of("timestep_bias", self.timestep_bias, TIMESTEP_BIASES)
        for name in ("lr_cycles", "repeats"):
            _at_least(name, getattr(self, name), 1)
        for name in ("lr_warmup_steps", "min_snr_gamma", "noise_offset", "timestep_bias_begin"):
            _at_least(name, getattr(self, name), 0)
        for name in ("lr_power", "timestep_bias_multiplier"):
            if not getattr(self, name) > 0:
                raise LoRA2Error(f"{name} is {getattr(self, name)}; it must be above 0")
        if not 0 <= self.caption_dropout <= 1:
            raise LoRA2Error(
                f"caption_dropout is {self.caption_dropout}; it is a chance from 0 to 1"
            )
        if not 0 < self.timestep_bias_portion <= 1:
            raise LoRA2Error(
                f"timestep_bias_portion is {self.timestep_bias_portion}; "
                "it is a share above 0, at most 1"
            )
        if self.timestep_bias_end <= self.timestep_bias_begin:
            raise LoRA2Error(
                f"timestep_bias_end is {self.timestep_bias_end} and timestep_bias_begin "
                f"{self.timestep_bias_begin}; end behind the beginning"
            )
        if not 0 <= self.ema_decay < 1:
            raise LoRA2Error(
                f"ema_decay is {self.ema_decay}; choose a number from 0, which switches it off, "
                "to just below 1"
            )
        if self.lr_warmup_steps > 0 and self.lr_warmup_steps >= self.steps:
            raise LoRA2Error(
                f"lr_warmup_steps is {self.lr_warmup_steps} but steps is {self.steps}; "
                "warm up for fewer"
            )
        if self.lr_scheduler == "polynomial" and self.learning_rate <= 1e-7:
            raise LoRA2Error(
                f"learning_rate is {self.learning_rate}, but polynomial ends at 1e-7; raise it, or "
                "choose linear"
            )
        if self.optimizer == "prodigy" and self.learning_rate < 0.01:
            raise LoRA2Error(
                f"learning_rate is {self.learning_rate}, but prodigy finds the rate itself and "
                "takes learning_rate as a factor on it; set it to 1"
            )

    @property
    def holds_budget(self) -> bool:
        """Whether ranks are kept to budget_mb in every step, and not cut to it at the end."""
        return self.budget_mb > 0 and self.effect_share == 1

    @classmethod
    def preset(cls, name: str, **changes) -> "TrainConfig":
        """The named preset with `changes` on top; raises LoRA2Error for an unknown name."""
        _one_of("preset", name, tuple(PRESETS))
        unknown = set(changes) - {f.name for f in fields(cls)}
        if unknown:
            raise LoRA2Error(f"unknown setting {', '.join(sorted(unknown))}")
        return replace(cls(**PRESETS[name]), **changes)

    @classmethod
    def chosen(cls, name: str, **values) -> "TrainConfig":
        """As `preset`, where every setting has a value because a form must have one: those at their
        default leave what the preset says.
        """
        _one_of("preset", name, tuple(PRESETS))
        usual = cls()
        changes = {
            key: value
            for key, value in values.items()
            if key not in PRESETS[name] or value != getattr(usual, key, None)
        }
        return cls.preset(name, **changes)


def _one_of(name, value, choices):
    if value not in choices:
        raise LoRA2Error(f"{name} is {value!r}; choose one of {', '.join(choices)}")


def _at_least(name, value, low):
    if not value >= low:  # also catches NaN
        raise LoRA2Error(f"{name} is {value}; it must be at least {low}")
