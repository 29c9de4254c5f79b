"""The transformer that reads one state and writes another: what sees what, GPT-2 itself, and exact draws."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from torch import Tensor

from maskworld.nets.prefix import GPT2Layer, PrefixLM, Read

VOCAB, GRID, STACK, DIM = 7, (2, 2), 2, 32
NUM = STACK * GRID[0] * GRID[1]
DRAWS = 2000


def net(gpt2: bool = False, seed: int = 0, vocab: int = VOCAB, **changes) -> PrefixLM:
    """With weights that all speak."""
    torch.manual_seed(seed)
    fields = {"grid": GRID, "stack": STACK, "dim": DIM, "depth": 2, "num_heads": 2, **changes}
    made = PrefixLM(vocab, gpt2=gpt2, **fields)
    with torch.no_grad():
        for value in made.parameters():
            value.add_(0.1 * torch.randn_like(value))
    return made.eval()


def states(b: int, seed: int = 1, vocab: int = VOCAB) -> Tensor:
    return torch.randint(0, vocab, (b, NUM), generator=torch.Generator().manual_seed(seed))


def numbers(*shape: int, seed: int = 2) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def told(b: int, k: int, seed: int = 3) -> Tensor:
    return torch.randn(b, k, DIM, generator=torch.Generator().manual_seed(seed))


KINDS = pytest.mark.parametrize("gpt2", [False, True], ids=["layer", "gpt2"])

# -- what sees what ---------------------------------------------------------------------------------


@KINDS
def test_written_tokens_never_look_ahead(gpt2: bool) -> None:
    made, state, other = net(gpt2), states(1), states(1, 5)
    logits = made(made.read(state), state, None, other)
    assert logits.shape == (1, NUM, VOCAB + 1)
    for i in range(NUM):
        changed = other.clone()
        changed[:, i] = (changed[:, i] + 1) % VOCAB
        moved = (made(made.read(state), state, None, changed) - logits).abs().amax((0, 2)) > 1e-6
        assert moved.tolist() == [j > i for j in range(NUM)], f"token {i}"


def test_the_state_is_seen_whole_and_sees_itself_whole() -> None:
    made, state, other = net(), states(1), states(1, 5)
    logits, last = made(made.read(state), state, None, other), made.read(state, last=True).last
    assert last is not None
    for i in range(NUM):
        changed = state.clone()
        changed[:, i] = (changed[:, i] + 1) % VOCAB
        read = made.read(changed, last=True)
        assert read.last is not None
        assert bool(((made(read, changed, None, other) - logits).abs().amax((0, 2)) > 1e-6).all()), f"token {i}"
        assert bool(((read.last - last).abs().amax((0, 2)) > 1e-6).all()), f"token {i} is not seen by all of its state"


def test_gpt2_reads_causally_but_writes_from_all() -> None:
    made, state, other = net(gpt2=True), states(1), states(1, 5)
    logits, last = made(made.read(state), state, None, other), made.read(state, last=True).last
    assert last is not None
    for i in range(NUM):
        changed = state.clone()
        changed[:, i] = (changed[:, i] + 1) % VOCAB
        read = made.read(changed, last=True)
        assert read.last is not None
        assert bool(((made(read, changed, None, other) - logits).abs().amax((0, 2)) > 1e-6).all())
        moved = (read.last - last).abs().amax((0, 2)) > 1e-6
        assert moved.tolist() == [j >= i for j in range(NUM - 1)]


@KINDS
def test_what_comes_out_of_reading_does_not_change_what_is_kept(gpt2: bool) -> None:
    """Where nobody asks for the last layer's outcome it is not computed; keys and values are the same."""
    made, state = net(gpt2), states(3)
    short, whole = made.read(state), made.read(state, last=True)
    assert short.last is None and whole.last is not None
    for one, other in zip(short.keys + short.values, whole.keys + whole.values, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_told_enters_with_what_is_written() -> None:
    made, state, other = net(), states(2), states(2, 5)
    read = made.read(state)
    one, two = (made(read, state, extra, other) for extra in told(2, 2).unbind(1))
    assert bool(((one - two).abs().amax(-1) > 1e-4).all())


def test_places_are_frame_row_and_column() -> None:
    """A state's tokens lie frame by frame, row by row; those that are written lie after them in time."""
    made = net(grid=(2, 3), stack=2)
    want = [[f, r, c] for f in range(4) for r in range(2) for c in range(3)]
    torch.testing.assert_close(made.angles, made.rotary.angles(torch.tensor(want).float()[None]))


# -- a token before the others ----------------------------------------------------------------------

LEADS = 3


def test_the_lead_is_written_first_and_told_to_the_others() -> None:
    made, state = net(leads=LEADS), states(1)
    other = torch.cat([torch.tensor([[2]]), states(1, 5)], dim=1)
    logits = made(made.read(state), state, None, other)
    assert logits.shape == (1, NUM + 1, VOCAB + 1)
    never = logits[0, 0] == -1e9
    assert never.tolist() == [LEADS <= i < VOCAB for i in range(VOCAB + 1)] and bool((logits[0, 1:] > -100).all())
    for i in range(NUM + 1):
        changed = other.clone()
        changed[:, i] = (changed[:, i] + 1) % LEADS
        moved = (made(made.read(state), state, None, changed) - logits).abs().amax((0, 2)) > 1e-6
        assert moved.tolist() == [j > i for j in range(NUM + 1)], f"token {i}"
    # the first of them alone are the first of them all
    torch.testing.assert_close(made(made.read(state), state, None, other[:, :1]), logits[:, :1])
    # its values are told apart, the end among them
    first = [made(made.read(state), state, None, other.index_fill(1, torch.tensor(0), x))[:, 1] for x in (0, 1, VOCAB)]
    assert all((a - b).abs().max() > 1e-4 for a, b in zip(first, first[1:] + first[:1], strict=True))


def test_leads_are_drawn_as_often_as_their_probabilities_say_and_what_follows_follows_them() -> None:
    made, state = net(leads=LEADS), states(1)
    tokens, logits = made.draw(state, None, numbers(1, DRAWS, NUM + 1), keep_logits=True)
    assert logits is not None
    with torch.no_grad():
        again = made(
            made.read(state.expand(DRAWS, -1)), state.expand(DRAWS, -1), None, tokens[0]
        )  # what the draw saw is what is computed all at once
        torch.testing.assert_close(logits[0], again, atol=1e-4, rtol=1e-4)
    p = again[0, 0].double().softmax(-1)
    there = [*range(LEADS), VOCAB]
    count = torch.bincount(tokens[0, :, 0], minlength=VOCAB + 1).double()
    assert count[LEADS:VOCAB].sum() == 0
    assert stats.chisquare(count[there], DRAWS * p[there] / p[there].sum()).pvalue > 1e-3
    assert int(made.draw(state, None, numbers(1, 200, NUM + 1), ends=False)[0][..., 0].max()) < LEADS


def test_leads_are_refused_where_they_cannot_be() -> None:
    for wrong in ({"leads": VOCAB + 1}, {"leads": -1}, {"leads": 1, "gpt2": True}):
        with pytest.raises(ValueError, match="a first token of"):
            net(**wrong)


# -- GPT-2 ------------------------------------------------------------------------------------------


def as_gpt2(theirs: torch.nn.Module, ours: PrefixLM) -> None:
    """Give our network the other one's weights."""
    state = theirs.state_dict()
    with torch.no_grad():
        ours.embed.weight.copy_(state["transformer.wte.weight"])
        ours.position.weight.copy_(state["transformer.wpe.weight"])
        for name, part in (("weight", ours.norm.weight), ("bias", ours.norm.bias)):
            part.copy_(state[f"transformer.ln_f.{name}"])
        pairs = {"norm": "ln_1", "qkv": "attn.c_attn", "out": "attn.c_proj"}
        pairs |= {"norm_mlp": "ln_2", "widen": "mlp.c_fc", "narrow": "mlp.c_proj"}
        for i, layer in enumerate(ours.layers):
            for our, their in pairs.items():
                for name, value in layer.get_submodule(our).named_parameters():
                    found = state[f"transformer.h.{i}.{their}.{name}"]
                    value.copy_(found.T if found.ndim == 2 else found)  # theirs are convolutions of one pixel


def test_it_is_gpt2() -> None:
    """The logits of transformers' GPT-2 on the two states in a row, for tokens of both, with the same weights."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=VOCAB, n_embd=DIM, n_layer=3, n_head=4, n_positions=64, bos_token_id=None, eos_token_id=None
    )
    theirs = transformers.GPT2LMHeadModel(config).eval()
    ours = net(gpt2=True, depth=3, num_heads=4, ends=False, positions=64)
    with torch.no_grad():
        for value in theirs.parameters():
            value.add_(0.1 * torch.randn_like(value))
    as_gpt2(theirs, ours)
    state, other = states(3), states(3, 5)
    with torch.no_grad():
        want = theirs(torch.cat([state, other], dim=1)).logits
        read = ours.read(state, last=True)
        assert read.last is not None
        own, found = ours.logits(read.last), ours(read, state, None, other)
    torch.testing.assert_close(own, want[:, : NUM - 1], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found, want[:, NUM - 1 : -1], atol=1e-4, rtol=1e-4)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


def test_the_reference_is_as_large_as_the_public_codes() -> None:
    with torch.device("meta"):
        made = PrefixLM(1024, (5, 5), 3, 768, 4, 8, gpt2=True, ends=False)
    assert sum(p.numel() for p in made.parameters()) == 29_925_888


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="do not divide"):
        net(num_heads=3)
    with pytest.raises(ValueError, match="multiple of 8"):
        net(num_heads=8)
    with pytest.raises(ValueError, match="15 positions for a state of 8 tokens"):
        net(gpt2=True, positions=15)


# -- drawing ----------------------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize("k", [1, 3])
def test_logits_of_a_draw_are_those_of_what_was_drawn(gpt2: bool, k: int) -> None:
    """The cache changes nothing: token by token is as all at once."""
    made, state = net(gpt2), states(4)
    extra = None if gpt2 else told(4, k)
    tokens, logits = made.draw(state, extra, numbers(4, k, NUM), keep_logits=True)
    assert logits is not None and tokens.shape == (4, k, NUM)
    assert bool((tokens == VOCAB).any()), "the end is never drawn, and so not tested"
    for j in range(k):
        one = None if extra is None else extra[:, j]
        want = made(made.read(state), state, one, tokens[:, j])
        torch.testing.assert_close(logits[:, j], want, atol=1e-5, rtol=1e-5)


@KINDS
def test_a_draw_does_not_depend_on_its_neighbours(gpt2: bool) -> None:
    made, state, uniform = net(gpt2), states(5), numbers(5, 4, NUM)
    extra = None if gpt2 else told(5, 4)
    all_tokens, _ = made.draw(state, extra, uniform)
    for b, k in ((0, 0), (3, 2), (4, 3)):
        one = None if extra is None else extra[b : b + 1, k : k + 1]
        alone, _ = made.draw(state[b : b + 1], one, uniform[b : b + 1, k : k + 1])
        assert torch.equal(alone[0, 0], all_tokens[b, k])
    assert len({tuple(row) for row in all_tokens[0].tolist()}) == 4


def test_a_draw_in_bf16_is_nearly_the_same() -> None:
    made, state, uniform = net(), states(16), numbers(16, 1, NUM)
    exact, half = (
        made.draw(state, None, uniform, precision=p, keep_logits=True) for p in (torch.float32, torch.bfloat16)
    )
    assert exact[1] is not None and half[1] is not None
    assert half[1].dtype == torch.float32
    first = half[1][:, 0, 0] - exact[1][:, 0, 0]
    assert 0 < first.abs().max() < 0.1
    assert (exact[0] == half[0]).float().mean() > 0.8


@KINDS
def test_first_tokens_come_as_often_as_their_probabilities_say(gpt2: bool) -> None:
    made, state = net(gpt2), states(1)
    with torch.no_grad():
        other = torch.zeros(1, NUM, dtype=torch.long)
        p = made(made.read(state), state, None, other)[0, 0].double().softmax(-1)
    tokens, _ = made.draw(state, None, numbers(1, DRAWS, NUM))
    count = torch.bincount(tokens[0, :, 0], minlength=VOCAB + 1).double()
    assert stats.chisquare(count, DRAWS * p / p.sum()).pvalue > 1e-3
    # ... and would be told from a distribution that is a little sharper
    sharper = p**1.3 / (p**1.3).sum()
    assert stats.chisquare(count, DRAWS * sharper).pvalue < 0.01


@KINDS
def test_second_tokens_follow_the_first(gpt2: bool) -> None:
    made, state = net(gpt2), states(1)
    tokens, _ = made.draw(state, None, numbers(1, DRAWS, NUM))
    pairs = tokens[0, :, :2]
    first = int(pairs[:, 0].mode().values)
    some = pairs[pairs[:, 0] == first, 1]
    with torch.no_grad():
        other = torch.full((1, NUM), first)
        p = made(made.read(state), state, None, other)[0, 1].double().softmax(-1)
    count = torch.bincount(some, minlength=VOCAB + 1).double()
    assert len(some) > 150
    assert stats.chisquare(count, len(some) * p / p.sum()).pvalue > 1e-3


def uniform_net() -> PrefixLM:
    """Of 1024 tokens that are all but equally likely."""
    made = net(vocab=1024, ends=False)
    with torch.no_grad():
        made.head.weight.mul_(1e-3)
    return made


def test_nothing_is_left_out_of_a_draw() -> None:
    """Hugging Face's `generate` draws from the 50 likeliest tokens unless told otherwise: 50 different ones at most."""
    made, state, uniform = uniform_net(), states(1, vocab=1024), numbers(1, 400, NUM)
    assert len(made.draw(state, None, uniform)[0][0, :, 0].unique()) > 250
    assert len(made.draw(state, None, uniform, top_k=50)[0][0, :, 0].unique()) <= 50


@KINDS
def test_temperature_and_top_k_do_what_they_say(gpt2: bool) -> None:
    made, state, uniform = net(gpt2), states(1), numbers(1, DRAWS, NUM)
    with torch.no_grad():
        other = torch.zeros(1, NUM, dtype=torch.long)
        logits = made(made.read(state), state, None, other)[0, 0].double()
    for temperature, top_k in ((0.5, None), (2.0, None), (1.0, 3), (0.5, 3)):
        p = (logits / temperature).softmax(-1)
        if top_k is not None:
            p = torch.where(logits >= logits.topk(top_k).values[-1], p, 0.0)
        p = p / p.sum()
        tokens, _ = made.draw(state, None, uniform, temperature=temperature, top_k=top_k)
        count = torch.bincount(tokens[0, :, 0], minlength=VOCAB + 1).double()
        assert count[p == 0].sum() == 0
        there = p > 0
        assert stats.chisquare(count[there], DRAWS * p[there] / p[there].sum()).pvalue > 1e-3


def test_without_ends_the_rest_is_what_it_is_without_them() -> None:
    made, state = net(), states(1)
    with torch.no_grad():
        other = torch.zeros(1, NUM, dtype=torch.long)
        p = made(made.read(state), state, None, other)[0, 0].double().softmax(-1)
    assert p[VOCAB] > 0.02
    tokens, logits = made.draw(state, None, numbers(1, DRAWS, NUM), ends=False, keep_logits=True)
    assert logits is not None and logits.shape[-1] == VOCAB and int(tokens.max()) < VOCAB
    count = torch.bincount(tokens[0, :, 0], minlength=VOCAB).double()
    assert stats.chisquare(count, DRAWS * p[:VOCAB] / p[:VOCAB].sum()).pvalue > 1e-3


def test_the_ends_of_the_uniform_numbers_are_tokens_that_can_be() -> None:
    """0 and the greatest number below 1 never fall on a token that is impossible, before, between or after others."""
    made = net(ends=False)
    edge = torch.full((40, 2, NUM), 1 - 2.0**-24)
    edge[:, 0] = 0.0
    tokens, logits = made.draw(states(40), None, edge, top_k=2, keep_logits=True)
    assert logits is not None
    best = logits.topk(2, dim=-1).indices.sort(-1).values
    assert torch.equal(tokens[:, 0], best[:, 0, :, 0]) and torch.equal(tokens[:, 1], best[:, 1, :, 1])
    assert bool((best[..., 0] > 0).any()) and bool((best[..., 1] < VOCAB - 1).any())


@KINDS
def test_dropout_is_on_in_training_alone(gpt2: bool) -> None:
    made, state, uniform = net(gpt2, dropout=(0.3, 0.3)), states(2), numbers(2, 1, NUM)
    draw = lambda: made.draw(state, None, uniform, keep_logits=True)[1]
    assert torch.equal(draw(), draw())
    made.train()
    one, other = draw(), draw()
    assert (one[:, :, 0] - other[:, :, 0]).abs().max() > 1e-3


def test_a_draw_has_no_gradient_and_leaves_the_network_as_it_was() -> None:
    made, state = net(), states(2)
    before = {name: value.clone() for name, value in made.state_dict().items()}
    tokens, logits = made.draw(state, told(2, 1).requires_grad_(), numbers(2, 1, NUM), keep_logits=True)
    assert logits is not None and not logits.requires_grad and not tokens.requires_grad
    made.draw(state, None, numbers(2, 1, NUM), precision=torch.bfloat16)
    assert all(torch.equal(value, before[name]) for name, value in made.state_dict().items())
    assert all(p.grad is None and p.dtype == torch.float32 for p in made.parameters())


@KINDS
def test_gradients_reach_all_that_is_used(gpt2: bool) -> None:
    made, state, other = net(gpt2).train(), states(2), states(2, 5)
    read = made.read(state)
    assert isinstance(read, Read) and len(read.keys) == len(made.layers)
    made(read, state, None if gpt2 else told(2, 1)[:, 0], other).square().mean().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in made.parameters())
    assert not gpt2 or isinstance(made.layers[0], GPT2Layer)
