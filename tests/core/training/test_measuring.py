"""The effects of a finished adapter on a model, against dense moments of the same passes."""

from dataclasses import replace
from itertools import count

import pytest
import reference
import torch
import toy
from toy_runs import BASE, Stop, data, run

from lora2_core.effect.measure import best
from lora2_core.errors import LoRA2Error
from lora2_core.files.module_names import kohya_name
from lora2_core.layers.applied import applied
from lora2_core.rank_tools import Cut, Ingredient, compress, merge, open_adapter
from lora2_core.rank_tools.adapters import unmeasured
from lora2_core.runs.packing import pack_result
from lora2_core.training.forward import forward
from lora2_core.training.measuring import measured

CONFIG = replace(BASE, method="lora", gradient_checkpointing=False)


def trained(seed=0, **changes):
    return run(replace(BASE, seed=seed, **changes))


def opened(result, name="mine"):
    return open_adapter(pack_result(result), name)


def measure(adapter, denoiser=None, passes=4, **changes):
    config = replace(CONFIG, **changes)
    found = measured(denoiser or toy.ToyDenoiser(), adapter, data(), config, passes)
    return replace(adapter, effects=found)


def dense(result, passes):
    """G [m, m] and C [n, n] of every adapted layer, over the passes that `measure` makes."""
    denoiser = toy.ToyDenoiser()
    generator = torch.Generator().manual_seed(CONFIG.seed)
    seen = {}
    handles = []
    for name, layer in denoiser.network.named_modules():
        module = denoiser.module_name(name)
        if module not in result.factors:
            continue

        def hook(layer, args, output, name=module):
            output = output + torch.zeros_like(output, requires_grad=True)
            output.retain_grad()
            seen.setdefault(name, []).append((args[0].detach(), output))
            return output

        handles.append(layer.register_forward_hook(hook))
    order = data()
    with applied(denoiser, result.factors):
        for _ in range(passes):
            [batch] = next(order)
            loss, _ = forward(denoiser, batch, CONFIG, None, generator, None)
            loss.backward()
    found = {}
    for name, passed in seen.items():
        g = c = 0
        for x, output in passed:
            tokens, gradients = x.flatten(0, -2), output.grad.flatten(0, -2)
            g = g + len(gradients) * reference.second_moment(list(gradients))
            c = c + reference.second_moment(list(tokens))
        found[name] = g, c
    return found


def test_it_is_what_dense_moments_say():
    result = trained()
    adapter = measure(opened(result))
    moments = dense(result, 4)
    for module, (down, up) in result.factors.items():
        name = kohya_name(module)
        found = adapter.effects[name]
        rank = min(2, len(found.effects))
        _, expected = reference.best_by_effect(up @ down, *moments[module], rank)
        biggest = float(expected[0])
        assert torch.allclose(
            found.effects, expected[: len(found.effects)], rtol=1e-3, atol=1e-5 * biggest
        )
        new_up, new_down = best(*adapter.factors(name), found, rank)
        lost = reference.effect_of((up @ down).double() - new_up @ new_down, *moments[module])
        assert lost == pytest.approx(float(expected[rank:].sum()), rel=1e-2, abs=1e-5 * biggest)


def test_recomputed_blocks_and_another_basis_change_nothing():
    adapter = opened(trained())
    plain = measure(adapter)
    again = measure(adapter, gradient_checkpointing=True)
    turned = open_adapter(compress(adapter, Cut(rank=512)).state, "turned")
    other = measure(turned)
    for name, found in plain.effects.items():
        assert torch.allclose(again.effects[name].effects, found.effects, rtol=1e-6)
        kept = len(other.effects[name].effects)
        size = float(found.effects[0])
        assert torch.allclose(
            other.effects[name].effects, found.effects[:kept], rtol=1e-3, atol=1e-5 * size
        )


def test_the_model_is_left_as_it_was():
    denoiser = toy.ToyDenoiser()
    before = {name: part.clone() for name, part in denoiser.network.state_dict().items()}
    measure(opened(trained()), denoiser)
    assert all(torch.equal(part, before[n]) for n, part in denoiser.network.state_dict().items())
    assert not any(m._forward_hooks for m in denoiser.network.modules())


def test_a_merge_is_cut_by_what_it_does_as_a_whole():
    adapters = [opened(trained(seed)) for seed in (0, 1)]
    merged = merge([Ingredient(one, 0.7) for one in adapters])
    whole = measure(open_adapter(merged.state, "both"))
    outcome = compress(whole, Cut(effect=0.9))
    assert outcome.retained >= 0.9
    assert sum(row.after for row in outcome.rows) < sum(row.before for row in outcome.rows)


def test_of_one_thing_it_says_how_far_it_is():
    seen = []
    measured(
        toy.ToyDenoiser(), opened(trained()), data(), CONFIG, 3, lambda *both: seen.append(both)
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]

    def stop(*_):
        raise Stop

    denoiser = toy.ToyDenoiser()
    with pytest.raises(Stop):
        measured(denoiser, opened(trained()), data(), CONFIG, 3, stop)
    assert not any(m._forward_hooks for m in denoiser.network.modules())


def test_what_the_model_lacks_stays_whole_and_is_named():
    result = trained()
    adapter = opened(result)
    assert unmeasured(measure(adapter)) == ""
    strange = result.factors | {"toy.other": next(iter(result.factors.values()))}
    shapes = result.shapes | {"toy.other": next(iter(result.shapes.values()))}
    adapter = measure(opened(replace(result, factors=strange, shapes=shapes)))
    assert "1 of 17" in unmeasured(adapter) and "toy_other" in unmeasured(adapter)
    row = compress(adapter, Cut(effect=0.5)).rows[-1]
    assert row.name == "lora_unet_toy_other" and row.after == row.before


def test_less_than_one_pass_is_refused():
    with pytest.raises(LoRA2Error, match="passes is 0"):
        measure(opened(trained()), passes=0)


def test_another_model_is_refused():
    result = trained()
    foreign = {name.replace("toy.", "else."): own for name, own in result.factors.items()}
    with pytest.raises(LoRA2Error, match="no layer of mine"):
        measure(opened(replace(result, factors=foreign)))
    with pytest.raises(LoRA2Error, match="changes a layer of 16×16, and the model's is 24×24"):
        measure(opened(result), toy.ToyDenoiser(width=24))


def test_a_dora_stays_whole():
    state = pack_result(trained())
    names = [key.removesuffix(".alpha") for key in state if key.endswith(".alpha")]
    for number in (1, len(names)):
        for name in names[:number]:
            state[f"{name}.dora_scale"] = torch.ones(len(state[f"{name}.lora_up.weight"]), 1)
        adapter = open_adapter(state, "mine")
        if number == 1:
            found = measure(adapter)
            assert set(adapter.components) - set(found.effects) == {names[0]}
            assert "DoRA" in unmeasured(found)
        else:
            with pytest.raises(LoRA2Error, match="mine is a DoRA"):
                measure(adapter)


def test_a_loss_that_is_not_finite_is_named():
    class Broken(toy.ToyDenoiser):
        passes = count()

        def predict(self, noisy, t, conditioning):
            factor = float("nan") if next(self.passes) == 1 else 1.0
            return super().predict(noisy, t, conditioning) * factor

    with pytest.raises(LoRA2Error, match="became nan in pass 2"):
        measure(opened(trained()), Broken())
