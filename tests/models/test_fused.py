"""Operations with gradients of their own against the plain formulas that they stand for."""

from contextlib import nullcontext
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models import fused
from models.fused import add_norm, rms_norm, rotate_, swiglu
from models.transformer import rotary_table
from tests.models.plain import turned

# Half a unit in bfloat16's last place, and some of float32's: a product and a sum may be one
# operation in one and two in the other.
ROUNDED_ONCE = 2**-8 * 1.001


@pytest.fixture(params=["compiled", "by PyTorch"])
def way(request, monkeypatch):
    """On a CPU both ways are there; elsewhere the second."""
    if request.param == "by PyTorch":
        monkeypatch.setattr(fused, "_is_compiled_for", lambda *given, **named: False)


def both(ours, plain, *inputs):
    """Values and gradients of two functions of the same inputs, by the same probe."""
    found = []
    for function in (ours, plain):
        given = [value.clone().requires_grad_() for value in inputs]
        result = function(*given)
        probe = torch.randn(result.shape, generator=torch.Generator().manual_seed(1))
        gradients = torch.autograd.grad((result * probe).sum(), given)
        found.append((result.detach(), *gradients))
    return zip(*found, strict=True)


def plain_norm(hidden, weight):
    return hidden / (hidden.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight


# Two registers; what fills none is PyTorch's.
@pytest.mark.parametrize(("tokens", "width"), [(0, 64), (1, 64), (7, 64), (7, 12)])
@pytest.mark.usefixtures("way")
def test_rms_norm(tokens, width):
    torch.manual_seed(0)
    hidden, weight = torch.randn(tokens, width) * 3, torch.randn(width)
    for actual, expected in both(lambda h, w: rms_norm(h, w, 1e-5), plain_norm, hidden, weight):
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize(("tokens", "width"), [(0, 64), (1, 64), (7, 64), (7, 12)])
@pytest.mark.usefixtures("way")
def test_a_sum_and_its_norm(tokens, width):
    def ours(hidden, branch, weight):
        return torch.cat(add_norm(hidden, branch, weight, 1e-5))

    def plain(hidden, branch, weight):
        return torch.cat([hidden + branch, plain_norm(hidden + branch, weight)])

    torch.manual_seed(0)
    given = torch.randn(tokens, width), torch.randn(tokens, width), torch.randn(width)
    for actual, expected in both(ours, plain, *given):
        torch.testing.assert_close(actual, expected)


@pytest.mark.usefixtures("way")
def test_a_sum_and_its_norm_with_bfloat16_round_once():
    torch.manual_seed(0)
    hidden, branch = torch.randn(50, 64), torch.randn(50, 64).bfloat16()
    weight, found = torch.randn(64), []
    by_sum, by_normed = torch.randn(50, 64), torch.randn(50, 64).bfloat16()
    for dtype in (torch.bfloat16, torch.float32):
        given = [hidden.clone(), branch.to(dtype), weight.clone()]
        given = [value.requires_grad_() for value in given]
        result = add_norm(*given, 1e-5, dtype)
        assert [value.dtype for value in result] == [torch.float32, dtype]
        gradients = torch.autograd.grad(result, given, [by_sum, by_normed.to(dtype)])
        assert [value.dtype for value in gradients] == [torch.float32, dtype, torch.float32]
        found.append((*result, *gradients))
    for name, half, single in zip(("sum", "normed", "h", "b", "w"), *found, strict=True):
        rounded = half.dtype == torch.bfloat16
        rtol = ROUNDED_ONCE if rounded else 1e-5
        torch.testing.assert_close(half.float(), single, rtol=rtol, atol=1e-5, msg=name)


TOKENS = st.sampled_from([0, 1, 2, 5, 50, 129])
DTYPES = st.sampled_from([torch.float32, torch.bfloat16])
# Each like its neighbours in memory; every second number; the same numbers for every token.
LAYOUTS = st.sampled_from(["dense", "strided", "expanded"])


def laid_out(tokens, width, layout, dtype=torch.float32):
    """Random numbers (tokens, width), and not contiguous unless they are dense."""
    if layout == "expanded":
        return torch.randn(1, width).to(dtype).expand(tokens, width)
    if layout == "strided":
        return torch.randn(tokens, 2 * width).to(dtype)[:, ::2]
    return torch.randn(tokens, width).to(dtype)


def check(function, plain, given, layout):
    """Values and gradients of any layout against those of the formula in float64."""
    ours = [value.detach().requires_grad_() for value in given]
    exact = [value.detach().double().requires_grad_() for value in given]
    results, wanted = function(*ours), plain(*exact)
    probes = [laid_out(*result.shape, layout, result.dtype) for result in results]
    found = [*results, *torch.autograd.grad(results, ours, probes)]
    probes = [probe.double() for probe in probes]
    wanted = [*wanted, *torch.autograd.grad(wanted, exact, probes)]
    for actual, expected in zip(found, wanted, strict=True):
        rounded = actual.dtype == torch.bfloat16
        scale = float(expected.detach().abs().max()) if expected.numel() else 0.0
        torch.testing.assert_close(
            actual.double(),
            expected,
            rtol=ROUNDED_ONCE if rounded else 1e-4,
            atol=(1e-3 if rounded else 1e-5) * scale + 1e-7,
        )


def by(compiled):
    """The way that was chosen, or PyTorch's."""
    if compiled:
        return nullcontext()
    return mock.patch("models.fused._is_compiled_for", return_value=False)


@pytest.mark.parametrize("compiled", [True, False])
@settings(max_examples=60)
@given(TOKENS, st.sampled_from([2, 12, 31, 32, 64, 96, 160]), LAYOUTS, DTYPES, DTYPES)
def test_norms_of_any_shape_and_layout(compiled, tokens, width, layout, branch_dtype, dtype):
    torch.manual_seed(tokens + width)
    hidden = laid_out(tokens, width, layout) * 3
    branch = laid_out(tokens, width, layout, branch_dtype)
    weight = laid_out(1, width, "strided")[0]

    def plain(hidden, branch, weight):
        return hidden + branch, plain_norm(hidden + branch, weight)

    with by(compiled):
        check(
            lambda hidden, weight: [rms_norm(hidden, weight, 1e-5)],
            lambda hidden, weight: [plain_norm(hidden, weight)],
            [hidden, weight],
            layout,
        )
        check(lambda *given: add_norm(*given, 1e-5, dtype), plain, [hidden, branch, weight], layout)


@pytest.mark.parametrize("compiled", [True, False])
@settings(max_examples=60)
@given(TOKENS, st.sampled_from([1, 3, 16, 32, 64, 96]), LAYOUTS, st.sampled_from([0.1, 1, 20]))
def test_gates_of_any_shape_and_layout(compiled, tokens, width, layout, scale):
    torch.manual_seed(tokens + width)

    def plain(gate_up):
        gate, up = gate_up.chunk(2, dim=-1)
        return [gate * torch.sigmoid(gate) * up]

    with by(compiled):
        given = [laid_out(tokens, 2 * width, layout) * scale]
        check(lambda gate_up: [swiglu(gate_up)], plain, given, layout)
        if compiled and width % 32 == 0:  # PyTorch's rounds between its steps
            check(lambda gate_up: [swiglu(gate_up)], plain, [given[0].bfloat16()], layout)


@pytest.mark.usefixtures("way")
def test_only_the_norm_of_a_sum_is_wanted():
    """As after the last block: nothing comes back by way of the sum."""
    torch.manual_seed(0)
    given = [torch.randn(3, 32, requires_grad=True) for _ in range(2)]
    probe = torch.randn(3, 32)
    _, normed = add_norm(*given, torch.ones(32), 1e-5)
    found = torch.autograd.grad((normed * probe).sum(), given)
    (expected,) = torch.autograd.grad(
        (plain_norm(sum(given), torch.ones(32)) * probe).sum(), given[:1]
    )
    for gradient in found:
        torch.testing.assert_close(gradient, expected)


@pytest.mark.usefixtures("way")
def test_rms_norm_as_bfloat16_rounds_once():
    torch.manual_seed(0)
    hidden, weight = torch.randn(50, 64) * 3, torch.randn(64)
    probe, found = torch.randn(50, 64).bfloat16(), []
    for dtype in (torch.bfloat16, torch.float32):
        given = [value.clone().requires_grad_() for value in (hidden, weight)]
        result = rms_norm(*given, 1e-5, dtype)
        assert result.dtype == dtype
        found.append((result, *torch.autograd.grad(result, given, probe.to(dtype))))
    for half, single in zip(*found, strict=True):
        torch.testing.assert_close(half.float(), single, rtol=ROUNDED_ONCE, atol=1e-5)
    for half, single in zip(found[0][1:], found[1][1:], strict=True):
        torch.testing.assert_close(half, single, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("way")
def test_rms_norm_of_zeros_is_zero_and_has_a_gradient():
    hidden = torch.zeros(2, 32, requires_grad=True)
    normalized = rms_norm(hidden, torch.ones(32), 1e-5)
    normalized.sum().backward()
    assert normalized.count_nonzero() == 0
    assert hidden.grad is not None
    torch.testing.assert_close(hidden.grad, torch.full((2, 32), 1e-5**-0.5))


@pytest.mark.parametrize(("tokens", "width"), [(0, 128), (1, 128), (7, 128), (7, 10)])
@pytest.mark.usefixtures("way")
def test_swiglu(tokens, width):
    def plain(gate_up):
        gate, up = gate_up.chunk(2, dim=-1)
        return gate * torch.sigmoid(gate) * up

    torch.manual_seed(0)
    for actual, expected in both(swiglu, plain, torch.randn(tokens, width) * 2):
        torch.testing.assert_close(actual, expected)


def test_rotation():
    torch.manual_seed(0)
    positions = torch.tensor([0, 1, 2, 0, 49])
    table = rotary_table(positions, 8)
    packed = torch.randn(5, 3, 2, 8)

    def ours(given):
        return rotate_(given * 1, table, 2)  # a leaf cannot be changed in place

    for actual, expected in both(ours, lambda given: turned(given, positions.float()), packed):
        torch.testing.assert_close(actual, expected)


def test_rotation_in_bfloat16_rounds_once():
    packed = torch.randn(5, 3, 2, 8).bfloat16()
    table = rotary_table(torch.arange(5), 8)
    expected = rotate_(packed.float(), table, 2).bfloat16()
    assert torch.equal(rotate_(packed.clone(), table, 2), expected)


def test_swiglu_in_bfloat16_rounds_once():
    gate_up, probe = torch.randn(50, 128).bfloat16(), torch.randn(50, 64).bfloat16()
    found = []
    for dtype in (torch.bfloat16, torch.float32):
        given = gate_up.to(dtype).requires_grad_()
        result = swiglu(given)
        found.append((result, *torch.autograd.grad(result, given, probe.to(dtype))))
    for half, single in zip(*found, strict=True):
        assert half.dtype == torch.bfloat16
        torch.testing.assert_close(half.float(), single, rtol=ROUNDED_ONCE, atol=1e-30)


@pytest.mark.usefixtures("way")
def test_swiglu_in_bfloat16_is_near_float32():
    gate_up = torch.randn(50, 128)
    low = swiglu(gate_up.bfloat16()).float()
    torch.testing.assert_close(low, swiglu(gate_up), atol=0.05, rtol=0.02)


@pytest.mark.usefixtures("way")
def test_large_and_spoiled_numbers():
    gates = torch.tensor([-1e30, -200.0, -90.0, 0.0, 90.0, 200.0, 1e30, torch.nan]).repeat(4)
    given = torch.cat([gates, torch.ones(32)]).view(1, -1).requires_grad_()
    found = swiglu(given)
    expected = torch.nn.functional.silu(gates).unsqueeze(0)
    torch.testing.assert_close(found, expected, equal_nan=True, atol=1e-6, rtol=1e-6)
    chosen = gates.abs() < 1e30
    (gradient,) = torch.autograd.grad(found[:, chosen].sum(), given)
    assert gradient[:, :32][:, ~gates.isnan()].isfinite().all()
    spoiled = torch.ones(1, 32)
    spoiled[0, 5] = torch.nan
    assert rms_norm(spoiled, torch.ones(32), 1e-5).isnan().all()


def test_threads_change_nothing():
    gate_up = torch.randn(50, 128)
    before, found = torch.get_num_threads(), []
    for number in (1, 3):
        torch.set_num_threads(number)
        given = gate_up.clone().requires_grad_()
        result = swiglu(given)
        found.append((result, *torch.autograd.grad(result.sum(), given)))
    torch.set_num_threads(before)
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))
