"""A naive twin of the training: one slow, plain function an equation, nothing shared with the core.

Full dense ΔW, Python loops over components, rows and heads, fp64 throughout, one Adam state a row.
Slow on purpose: what the core does with segments, buckets and fused kernels is done here the way
it is written on paper. Imports nothing of lora2_core.
"""

import math
import re

import torch


def f(x, nu):
    """f(x; ν) = e^{−νx}(1−e^{−ν}), Python floats."""
    return math.exp(-nu * x) * (1.0 - math.exp(-nu))


def f_gradient(x, nu):
    """∂f/∂ν = e^{−νx}[(x+1)e^{−ν}−x]."""
    return math.exp(-nu * x) * ((x + 1) * math.exp(-nu) - x)


def log_mass(q):
    return -math.log(1.0 - q)


def quantile_rank(nu, r_min, r_max, q):
    """clamp(⌈t − min(0.5, 0.01 t)⌉, r_min, r_max), t = L/ν."""
    t = log_mass(q) / nu
    return min(max(math.ceil(t - min(0.5, 0.01 * t)), r_min), r_max)


def softplus(rho):
    return rho + math.log1p(math.exp(-rho)) if rho > 0 else math.log1p(math.exp(rho))


def inverse_softplus(nu):
    return math.log(math.expm1(nu))


def unit_f(x, nu):
    """f(x; ν) over the root of the sum of f² over a great many rows."""
    return f(x, nu) / math.sqrt(sum(f(j, nu) ** 2 for j in range(int(40 / nu) + 1)))


IMPORTANCES = {"printed": f, "unit_energy": unit_f}


def initial_std(nu, rank, kind="printed"):
    """√(2/Σ_{j<rank} Λ_j²)."""
    return math.sqrt(2.0 / sum(IMPORTANCES[kind](x, nu) ** 2 for x in range(rank)))


def entropy(logits):
    """Mean over all leading dimensions of −Σ p log p over the last."""
    p = torch.softmax(logits, -1)
    return -(p * torch.log(p)).sum(-1).mean()


def attention(q, k, v, heads):
    """Softmax attention head by head; q, k, v: [b, tokens, heads·d]. Returns (output, logits)."""
    width = q.shape[-1] // heads
    outputs, all_logits = [], []
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        logits = q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(width)
        outputs.append(torch.softmax(logits, -1) @ v[..., part])
        all_logits.append(logits)
    return torch.cat(outputs, -1), torch.stack(all_logits, 1)


def toy_forward(weights, blocks, heads, noisy, t, context):
    """toy.ToyNetwork from a dict of dense weights. Returns (prediction, mean entropy)."""
    b, c, h, w = noisy.shape
    x = noisy.flatten(2).transpose(1, 2) @ weights["proj_in"].T
    x = x + (t.to(x.dtype) / 10.0)[:, None, None] * weights["time"]
    entropies = []
    for block in range(blocks):
        for kind in ("attn1", "attn2"):
            at = f"blocks.{block}.{kind}."
            source = x if kind == "attn1" else context
            q = x @ weights[at + "to_q"].T
            k = source @ weights[at + "to_k"].T
            v = source @ weights[at + "to_v"].T
            mixed, logits = attention(q, k, v, heads)
            x = x + mixed @ weights[at + "to_out.0"].T
            if kind == "attn2":
                entropies.append(entropy(logits))
    out = (x @ weights["proj_out"].T).transpose(1, 2).reshape(b, c, h, w)
    return out, torch.stack(entropies).mean()


def rate(config, step):
    """The learning rate of a step (0-based): straight up from 0, then a half cosine."""
    warm = config.lr_warmup_steps
    if step < warm:
        return config.learning_rate * step / warm
    if config.lr_scheduler == "constant":
        return config.learning_rate
    assert config.lr_scheduler == "cosine"
    progress = (step - warm) / (config.steps - warm)
    return config.learning_rate * (1 + math.cos(math.pi * progress)) / 2


def chances(config, levels):
    """How likely each noise level is."""
    size = []
    for level in range(levels):
        favoured = {
            "earlier": level < int(config.timestep_bias_portion * levels),
            "later": level >= levels - int(config.timestep_bias_portion * levels),
            "range": config.timestep_bias_begin <= level < config.timestep_bias_end,
        }[config.timestep_bias]
        size.append(config.timestep_bias_multiplier if favoured else 1.0)
    return [one / sum(size) for one in size]


def min_snr_weight(snr, gamma, predicts_v):
    return min(snr, gamma) / (snr + 1 if predicts_v else snr)


def draws(config, shape, timesteps, generator):
    """Noise and noise levels of one batch."""
    noise = torch.randn(shape, generator=generator)
    if config.noise_offset:
        shared = torch.randn(shape[0], shape[1], 1, 1, generator=generator)
        noise = noise + config.noise_offset * shared
    if config.timestep_bias == "none":
        return noise, torch.randint(timesteps, shape[:1], generator=generator)
    likely = torch.tensor(chances(config, timesteps))
    return noise, torch.multinomial(likely, shape[0], replacement=True, generator=generator)


def toy_snr(level, timesteps):
    """toy.ToyDenoiser mixes (1 − k) x_0 + k ε with k = level / timesteps."""
    share = level / timesteps
    return ((1 - share) / share) ** 2 if share else math.inf


def weighted_error(prediction, wanted, t, config, timesteps):
    """Mean over the images of each one's squared error, weighted by its noise level."""
    if config.min_snr_gamma == 0:
        return ((prediction - wanted) ** 2).mean()
    total = 0.0
    for one, goal, level in zip(prediction, wanted, t.tolist(), strict=True):
        snr = toy_snr(level, timesteps)
        weight = 0.0 if snr == math.inf else min_snr_weight(snr, config.min_snr_gamma, False)
        total = total + weight * ((one - goal) ** 2).mean()
    return total / len(prediction)


class Row:
    """One unit of rank of one factor, with its own Adam state."""

    def __init__(self, value):
        self.value = value.double()
        self.m = torch.zeros_like(self.value)
        self.v = torch.zeros_like(self.value)
        self.count = 0

    def adam(self, grad, lr, weight_decay):
        self.count += 1
        self.value = self.value - lr * weight_decay * self.value
        self.m = 0.9 * self.m + 0.1 * grad
        self.v = 0.999 * self.v + 0.001 * grad * grad
        m = self.m / (1 - 0.9**self.count)
        v = self.v / (1 - 0.999**self.count)
        self.value = self.value - lr * m / (v.sqrt() + 1e-8)


class Component:
    """One adapted layer: the list of its rows, dormant ones included, and its ρ."""

    def __init__(self, name, weight, config):
        self.name = name
        self.weight = weight.double()
        self.cap = min(config.r_max, *weight.shape)
        nu = log_mass(config.quantile) / min(config.r_init, self.cap)
        self.rho = Row(torch.tensor(inverse_softplus(nu)))
        self.a, self.b = [], []
        self.rank = 0
        self.capacity = 0
        self.idle = 0

    @property
    def nu(self):
        return softplus(float(self.rho.value))

    def follow_nu(self, config, generator):
        """Brings the rank up to ν: rows are appended when they are needed for the first time."""
        self.rank = quantile_rank(self.nu, 1, self.cap, config.quantile)
        missing = self.rank - len(self.a)
        if missing > 0:
            m, n = self.weight.shape
            std = initial_std(self.nu, self.rank, config.importance)
            if config.init == "fan_in":
                std /= math.sqrt(n)
            for row in std * torch.randn(missing, n, generator=generator):
                self.a.append(Row(row))
                self.b.append(Row(torch.zeros(m)))
        while self.capacity < self.rank:
            self.capacity = 8 if self.capacity == 0 else 2 * self.capacity

    def forget(self, patience):
        """Memory is given back when the rank stayed small: dormant rows that do not fit go."""
        small = 4 * self.rank <= self.capacity and self.capacity > 8
        self.idle = self.idle + 1 if small else 0
        if self.idle > patience:
            self.idle = 0
            while self.capacity > 8 and self.capacity // 2 >= self.rank:
                self.capacity //= 2
            self.a, self.b = self.a[: self.capacity], self.b[: self.capacity]

    def delta(self, rows_a, rows_b, nu, kind):
        """ΔW = Σ_x Λ_x b_x a_xᵀ, dense [m, n]; Λ_x = f(x; ν), or of unit energy."""
        first = 1 - torch.exp(-nu)
        if kind == "unit_energy":
            first = first / torch.sqrt(torch.tanh(nu / 2))
        total = torch.zeros_like(self.weight)
        for x in range(self.rank):
            total = total + torch.exp(-nu * x) * first * torch.outer(rows_b[x], rows_a[x])
        return total


def clip(gradients, max_norm):
    """Scales the gradients so that their joint norm is at most max_norm."""
    norm = math.sqrt(sum((g * g).sum().item() for g in gradients))
    factor = min(1.0, max_norm / (norm + 1e-6))
    return [g * factor for g in gradients]


def train(weights, names, frozen, blocks, heads, batches, config, generator, corrupt, timesteps):
    """Trains toy.ToyNetwork. names: adapted layers in the order of the file;
    frozen: the other weights.

    Returns (list of the ranks after every step, losses, components).
    """
    target = log_mass(config.quantile) / config.r_target
    components = [Component(name, weights[name], config) for name in names]
    for component in components:
        component.follow_nu(config, generator)
    history, losses = [], []
    for step in range(config.steps):
        leaves_a = [[r.value.clone().requires_grad_() for r in c.a[: c.rank]] for c in components]
        leaves_b = [[r.value.clone().requires_grad_() for r in c.b[: c.rank]] for c in components]
        rhos = [c.rho.value.clone().requires_grad_() for c in components]
        step_batches = next(batches)
        total, reported = 0.0, 0.0
        for batch in step_batches:
            noise, t = draws(config, batch.latents.shape, timesteps, generator)
            noisy, wanted = corrupt(batch.latents.double(), noise.double(), t)
            dense = dict(frozen)
            for i, c in enumerate(components):
                nu = torch.log1p(torch.exp(rhos[i]))
                dense[c.name] = c.weight + c.delta(leaves_a[i], leaves_b[i], nu, config.importance)
            prediction, spread = toy_forward(
                dense, blocks, heads, noisy, t, batch.conditioning["context"].double()
            )
            mse = batch.weight * weighted_error(prediction, wanted, t, config, timesteps)
            reported += mse.item()
            total = total + mse + config.lambda_e / len(step_batches) * spread
        held = step < round(config.rank_hold * config.steps)
        frozen_ranks = step >= config.steps - round(config.rank_freeze * config.steps)
        moving = not (held or frozen_ranks)
        if moving:
            for rho, c in zip(rhos, components, strict=True):
                if not getattr(c, "parked", False):
                    total = total + config.lambda_r * rank_term(rho, target, config)
        total.backward()
        losses.append(reported)

        flat = [leaf.grad for i in range(len(components)) for leaf in (*leaves_a[i], *leaves_b[i])]
        flat = clip(flat, config.max_grad_norm)
        rows = [r for c in components for r in (*c.a[: c.rank], *c.b[: c.rank])]
        for row, grad in zip(rows, flat, strict=True):
            row.adam(grad, rate(config, step), config.weight_decay)
        if moving:
            rho_grads = clip([rho.grad for rho in rhos], config.max_grad_norm)
            for c, grad in zip(components, rho_grads, strict=True):
                move_rho(c, grad, target, config)
        for c in components:
            c.follow_nu(config, generator)
            c.forget(config.shrink_patience)
        history.append(tuple(c.rank for c in components))
    return history, losses, components


def rank_term(rho, target, config):
    """|ν − ν_target|, or |t − t_target| / 100 for the t rows of ν."""
    nu = torch.log1p(torch.exp(rho))
    if config.rank_term == "nu":
        return (nu - target).abs()
    mass = log_mass(config.quantile)
    return (mass / nu - mass / target).abs() / 100


def move_rho(c, grad, target, config):
    """One Adam step of ρ; stops on the target when crossing it, and on r_max when passing it."""
    side = 0.0 if getattr(c, "parked", False) else c.nu - target
    c.rho.adam(grad, min(config.rank_rate / config.steps, 0.5), 0.0)
    c.parked = side * (c.nu - target) < 0
    if c.parked:
        c.rho.value = torch.tensor(inverse_softplus(target), dtype=torch.float64)
    lowest = inverse_softplus(log_mass(config.quantile) / c.cap)
    low = float(c.rho.value) < lowest
    if low:
        c.rho.value = torch.tensor(lowest, dtype=torch.float64)
    if c.parked or low:
        c.rho.m = torch.zeros_like(c.rho.m)


def share_rank(up, down, share):
    """The smallest k of which the dense matrix of rank k leaves out at most √(1 − share) of the
    norm, and what fp32 rounds: 4·2⁻²³ of the norms that are added."""
    dense = up.double() @ down.double()
    u, sigma, vt = torch.linalg.svd(dense, full_matrices=False)
    noise = sum(float(up[:, i].double().norm() * down[i].double().norm()) for i in range(len(down)))
    for k in range(1, len(sigma) + 1):
        left = float((dense - (u[:, :k] * sigma[:k]) @ vt[:k]).norm())
        if left <= math.sqrt(1 - share) * float(dense.norm()) + 4 * 2**-23 * noise:
            return k
    return len(sigma)


def merged_tags(tables):
    """Counts of tags added folder by folder; the first folder gets those of all."""
    found = {}
    for table in tables:
        for folder, tags in table.items():
            own = found.setdefault(folder, {})
            for tag, count in tags.items():
                own[tag] = own.get(tag, 0) + count
    every = {}
    for tags in found.values():
        for tag, count in tags.items():
            every[tag] = every.get(tag, 0) + count
    if found:
        found[next(iter(found))] = every
    return found


def peft_scale(settings, module, rank):
    """alpha/r, or alpha/√r with use_rslora; the first of alpha_pattern's expressions that matches
    the module as (.*\\.)?(expression)$ gives alpha, else lora_alpha."""
    alpha = settings["lora_alpha"]
    for expression, value in settings.get("alpha_pattern", {}).items():
        if re.match(rf"(.*\.)?({expression})$", module):
            alpha = value
            break
    return alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)


def tucker(core, up, down):
    """W[p, q, x, y] = Σ_ij core[i, j, x, y] up[i, p] down[j, q]."""
    p, q, (_, _, k, l) = up.shape[1], down.shape[1], core.shape  # noqa: E741
    w = torch.zeros(p, q, k, l, dtype=torch.float64)
    for i in range(core.shape[0]):
        for j in range(core.shape[1]):
            outer = up[i].double()[:, None] * down[j].double()[None]
            w += outer[:, :, None, None] * core[i, j].double()
    return w


def loha(w1a, w1b, w2a, w2b, alpha=None, t1=None, t2=None):
    """(w1a w1b) ∘ (w2a w2b) · alpha / r, with the cores of the Tucker form if there are any."""
    one = w1a.double() @ w1b.double() if t1 is None else tucker(t1, w1a, w1b)
    two = w2a.double() @ w2b.double() if t2 is None else tucker(t2, w2a, w2b)
    return one * two * (1.0 if alpha is None else alpha / w1b.shape[0])


def kronecker(a, b):
    """Block (i, j) is a[i, j] · b, for a kernel of b too."""
    rows = [torch.cat([a[i, j].double() * b.double() for j in range(a.shape[1])], 1)
            for i in range(a.shape[0])]  # fmt: skip
    return torch.cat(rows, 0)


def lokr(w1, w2, alpha=None, rank=None):
    """w1 ⊗ w2, of alpha / rank if one of them is a product of that rank."""
    return kronecker(w1, w2) * (1.0 if alpha is None or rank is None else alpha / rank)


def dora(weight, delta, magnitude):
    """magnitude · (W + ΔW) / ‖W + ΔW‖, the norm of each output; magnitude: [out]."""
    turned = weight.double() + delta.double()
    for row in range(len(turned)):
        turned[row] *= float(magnitude[row]) / float(turned[row].norm())
    return turned


def second_moment(vectors):
    """E[v vᵀ], one outer product after the other; vectors: a list of [k]."""
    total = torch.zeros(len(vectors[0]), len(vectors[0]), dtype=torch.float64)
    for vector in vectors:
        total += torch.outer(vector.double(), vector.double())
    return total / len(vectors)


def matrix_root(matrix):
    """The symmetric square root."""
    values, vectors = torch.linalg.eigh(matrix.double())
    return vectors @ torch.diag(values.clamp(min=0).sqrt()) @ vectors.t()


def effect_of(change, g, c):
    """‖G^½ E C^½‖² of a dense change E [m, n], with the full G [m, m] and C [n, n]."""
    return float((matrix_root(g) @ change.double() @ matrix_root(c)).square().sum())


def best_by_effect(delta, g, c, rank):
    """The dense matrix of that rank nearest to ΔW in effect, and the effects of its directions; G
    and C regular."""
    left, right = matrix_root(g), matrix_root(c)
    u, s, vt = torch.linalg.svd(left @ delta.double() @ right, full_matrices=False)
    cut = (u[:, :rank] * s[:rank]) @ vt[:rank]
    return torch.linalg.inv(left) @ cut @ torch.linalg.inv(right), s.square()
