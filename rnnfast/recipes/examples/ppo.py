"""Proximal policy optimisation of a policy that remembers.

(Schulman et al., "Proximal policy optimization algorithms", arXiv:1707.06347.)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...models import rows_of
from .policy import Policy, Rollout

# Advantages are divided by their standard deviation, but by no less than this: where all goes well they are the
# critic's noise, which would be blown up until the policy fell apart.
FLOOR = 0.1


@dataclass(frozen=True)
class Objective:
    """What is minimised over each rollout, several times, each time in one call of the policy.

    Args:
        discount: of a reward one step later.
        smoothing: lambda of the advantages.
        clip: how far a probability may move, as a ratio, before it stops counting.
        entropy: weight of the entropy of actions, which is held up.
        critic: weight of the critic's squared error.
        epochs: times that a rollout is learned from.
        parts: minibatches of an epoch, each of some environments with all their steps.
        norm: the whole gradient is scaled down to.
    """

    discount: float = 0.99
    smoothing: float = 0.95
    clip: float = 0.2
    entropy: float = 0.01
    critic: float = 0.5
    epochs: int = 4
    parts: int = 4
    norm: float = 0.5

    def loss(self, policy: Policy, rollout: Rollout, advantages: Tensor, rows: Tensor) -> Tensor:
        """The mean over all steps of some environments.

        Args:
            advantages: (T, B), before they are normalised; rows: which of the B, int64.
        """
        state = rollout.state
        if state is not None:
            state = rows_of(state, rows)
        begins = rollout.begins[:, rows]
        logits, values, _ = policy(rollout.observations[:, rows], state, begins)
        log_probs, gains = logits.log_softmax(-1), advantages[:, rows]
        chosen = log_probs.gather(-1, rollout.actions[:, rows].unsqueeze(-1)).squeeze(-1)
        ratio = (chosen - rollout.log_probs[:, rows]).exp()
        scaled = (gains - gains.mean()) / gains.std().clamp_min(FLOOR)
        actor = -torch.minimum(ratio * scaled, ratio.clamp(1 - self.clip, 1 + self.clip) * scaled).mean()
        critic = F.mse_loss(values, gains + rollout.values[:, rows])
        entropy = -(log_probs.exp() * log_probs).sum(-1).mean()
        return actor + self.critic * critic - self.entropy * entropy

    def improve(
        self, policy: Policy, optimizer: torch.optim.Optimizer, rollout: Rollout, generator: torch.Generator
    ) -> None:
        """Learns from one rollout."""
        advantages = rollout.advantages(self.discount, self.smoothing)
        for _ in range(self.epochs):
            order = torch.randperm(advantages.size(1), generator=generator).to(advantages.device)
            for rows in order.chunk(self.parts):
                optimizer.zero_grad()
                self.loss(policy, rollout, advantages, rows).backward()
                nn.utils.clip_grad_norm_(policy.parameters(), self.norm)
                optimizer.step()


__all__ = ["Objective"]
