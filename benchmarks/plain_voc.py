"""Video Occupancy Models as the public implementation trains and samples them, written down plainly.

Hugging Face's GPT-2 in float32, and its `generate` with its cache: every row of the batch is drawn, also those that
are thrown away, from the 50 likeliest tokens and with dropout on, as that code really ran. The loss is the mean over
all tokens, of the state that is read, too. AdamW; a target that follows by 0.1 a step. A state's reward is that of a
perceptron over its codes' vectors.

What ours is measured against (benchmarks/voc.py); written from the paper and its public description, for clarity.
"""

from __future__ import annotations

import copy
import sys

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskworld.papers import voc

TOP_K = 50  # of `generate`, unless it is told otherwise


def gpt2(config: voc.Config, dropout: tuple[float, float]) -> nn.Module:
    """transformers' GPT-2 of this size. Ends the program with a line where transformers is absent."""
    try:
        import transformers
    except ModuleNotFoundError:
        sys.exit("this benchmark measures against Hugging Face's GPT-2: pip install 'maskworld[hf]'")
    transformers.logging.set_verbosity_error()
    features, attention = dropout
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=config.vocab, n_embd=config.dim, n_layer=config.depth, n_head=config.heads, n_positions=1024,
            resid_pdrop=features, embd_pdrop=features, attn_pdrop=attention, bos_token_id=None, eos_token_id=None,
        )
    )  # fmt: skip


class Plain:
    """The two transformers, the reward, and what trains them."""

    def __init__(self, config: voc.Config, gamma: float, dropout: tuple[float, float], seed: int = 0):
        torch.manual_seed(seed)
        self.config, self.gamma = config, gamma
        self.gpt = gpt2(config, dropout)
        self.target = copy.deepcopy(self.gpt)  # in training mode, as the other: nobody calls eval()
        self.vectors = nn.Embedding(config.vocab, config.dim_code).requires_grad_(False)
        hidden = config.dim_reward
        self.reward = nn.Sequential(
            nn.Linear(config.tokens * config.dim_code, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(),
            nn.Linear(hidden, 1),
        )  # fmt: skip
        self.gpt_optimiser = torch.optim.AdamW(self.gpt.parameters(), lr=3e-4, weight_decay=0.1)
        self.reward_optimiser = torch.optim.AdamW(self.reward.parameters(), lr=3e-4)

    @torch.no_grad()
    def draw(self, state: Tensor) -> Tensor:
        """One future of each state; to have several, repeat the state."""
        n = state.shape[1]
        kept = self.target.generate(
            state, max_new_tokens=n, do_sample=True, top_k=TOP_K, attention_mask=torch.ones_like(state), use_cache=True
        )
        return kept[:, n:]

    def loss(self, state: Tensor, other: Tensor) -> Tensor:
        """The cross-entropy of all tokens but the first, of both."""
        tokens = torch.cat([state, other], dim=1)
        return self.gpt(input_ids=tokens, labels=tokens).loss

    def update(self, state: Tensor, following: Tensor, rewards: Tensor) -> None:
        """One step of everything."""
        predicted = self.reward(self.vectors(following).flatten(1))[:, 0]
        reward_loss = F.mse_loss(predicted, rewards)
        drawn = self.draw(following)
        chance = torch.rand(len(state), 1) < self.gamma
        loss = self.loss(state, torch.where(chance, drawn, following))
        self.gpt_optimiser.zero_grad()
        self.reward_optimiser.zero_grad()
        (loss + reward_loss).backward()
        self.gpt_optimiser.step()
        self.reward_optimiser.step()
        with torch.no_grad():
            for slow, fast in zip(self.target.parameters(), self.gpt.parameters(), strict=True):
                slow.copy_(0.9 * slow + 0.1 * fast)
