"""A policy that remembers, and what it did in an environment whose episodes end within the rollout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ... import GRU, LSTM, RNN
from ...models import State, detached
from ...models.backbone import each

CELLS: dict[str, Any] = {"gru": GRU, "lstm": LSTM, "rnn": RNN}
NO_MEMORY = "none"


class Policy(nn.Module):
    """Actor and critic that read one recurrence over all that was observed since an episode began.

    Args:
        observed: numbers in an observation, I.
        actions: how many there are, A.
        hidden_size: units, H.
        cell: ``"gru"``, ``"lstm"`` or ``"rnn"``; ``"none"`` for two layers without memory, of H units each.

    Shapes:
        * observations: (T, B, I).
        * state: (1, B, H), of an LSTM two of them, None for zero; without memory always None.
        * begins: (T, B) bool, where an observation is the first of its episode.
        * results: logits of actions (T, B, A), values (T, B), and the state after the last step.

    Raises:
        KeyError: for an unknown cell.

    Example:
        >>> policy, begins = Policy(2, 2, 32), torch.zeros(7, 3, dtype=torch.bool)
        >>> begins[4, 1] = True
        >>> logits, values, state = policy(torch.randn(7, 3, 2), None, begins)
    """

    def __init__(self, observed: int, actions: int, hidden_size: int, cell: str = "gru") -> None:
        super().__init__()
        self.rnn: nn.Module | None = None
        if cell == NO_MEMORY:
            layers = [nn.Linear(observed, hidden_size), nn.Tanh(), nn.Linear(hidden_size, hidden_size), nn.Tanh()]
            self.features = nn.Sequential(*layers)
        else:
            self.rnn = CELLS[cell](observed, hidden_size)
        self.actor = nn.Linear(hidden_size, actions)
        self.critic = nn.Linear(hidden_size, 1)
        nn.init.orthogonal_(self.actor.weight, 0.01)  # all actions are as likely at first

    def forward(self, observations: Tensor, state: State | None, begins: Tensor) -> tuple[Tensor, Tensor, Any]:
        """A whole rollout in one call: the recurrence begins anew, from zero, where an episode does."""
        if self.rnn is None:
            return *self._heads(self.features(observations)), None
        output, state = self.rnn(observations, state, reset=begins)
        return *self._heads(output), state

    def step(self, observation: Tensor, state: State | None, begins: Tensor) -> tuple[Tensor, Tensor, Any]:
        """One step, as it is lived: (B, I), state and (B,) to logits (B, A), values (B,) and state."""
        if self.rnn is None:
            return *self._heads(self.features(observation)), None
        if state is not None:
            state = each(lambda s: s.masked_fill(begins.unsqueeze(-1), 0.0), state)
        output, state = self.rnn(observation.unsqueeze(0), state)
        return *self._heads(output.squeeze(0)), state

    def _heads(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return self.actor(features), self.critic(features).squeeze(-1)


@dataclass(frozen=True)
class Rollout:
    """T steps of B environments, for (T, B) the steps taken, in which episodes end and others begin.

    Args:
        state: the policy's before the first step, detached.
        last_values: (B,), of the observation after the last step.
        observations: (T, B, I); begins: (T, B) bool, where one is the first of its episode.
        actions: (T, B) int64; log_probs: theirs, as they were drawn; values: the critic's.
        rewards: (T, B), times 1 - discount, so that values are means of rewards; where an episode was cut off by a
            time limit with what the critic expected of the rest.
        ends: (T, B) bool, where an episode ended after the step, for whatever reason.
    """

    state: Any
    last_values: Tensor
    observations: Tensor
    begins: Tensor
    actions: Tensor
    log_probs: Tensor
    values: Tensor
    rewards: Tensor
    ends: Tensor

    def advantages(self, discount: float, smoothing: float) -> Tensor:
        r"""Generalised advantage estimates, (T, B) (Schulman et al., arXiv:1506.02438).

        .. math::
            A_t = \delta_t + \gamma \lambda (1 - end_t) A_{t+1}, \quad
            \delta_t = r_t + \gamma (1 - end_t) V_{t+1} - V_t
        """
        result, after = torch.empty_like(self.rewards), torch.zeros_like(self.last_values)
        next_values, goes_on = self.last_values, 1.0 - self.ends.to(self.rewards.dtype)
        for t in reversed(range(len(result))):
            delta = self.rewards[t] + discount * goes_on[t] * next_values - self.values[t]
            result[t] = after = delta + discount * smoothing * goes_on[t] * after
            next_values = self.values[t]
        return result


class Collector:
    """Acts in environments and carries what goes on from one rollout to the next: observations and states.

    Args:
        environments: gymnasium's, vectorised, with autoreset in the same step.
        policy: what acts.
        discount: of a reward one step later.
        generator: of actions.
        seed: of the environments.
        device: where the policy is.
    """

    def __init__(
        self,
        environments: Any,
        policy: Policy,
        discount: float,
        generator: torch.Generator,
        seed: int,
        device: str = "cpu",
    ) -> None:
        self.environments, self.policy, self.discount = environments, policy, discount
        self.generator, self.device = generator, device
        self.observation = self._tensor(environments.reset(seed=seed)[0])
        self.begins = torch.ones(environments.num_envs, dtype=torch.bool, device=device)
        self.state: Any = None
        self.returns = torch.zeros(environments.num_envs, dtype=torch.float64)
        self.finished: list[float] = []  # the returns of all episodes that ended

    @torch.no_grad()
    def rollout(self, steps: int) -> Rollout:
        """The next steps."""
        start, taken = None if self.state is None else detached(self.state), []
        for _ in range(steps):
            taken.append(self._step())
        _, last_values, _ = self.policy.step(self.observation, self.state, self.begins)
        columns = [torch.stack(column) for column in zip(*taken, strict=True)]
        return Rollout(start, last_values, *columns)

    def _step(self) -> tuple[Tensor, ...]:
        observation, begins = self.observation, self.begins
        logits, values, self.state = self.policy.step(observation, self.state, begins)
        log_probs = logits.log_softmax(-1).cpu()
        actions = torch.multinomial(log_probs.exp(), 1, generator=self.generator)
        after, rewards, terminated, truncated, info = self.environments.step(actions.squeeze(-1).numpy())
        self.observation = self._tensor(after)
        self._note(torch.from_numpy(rewards), torch.from_numpy(terminated | truncated))
        earned = (1 - self.discount) * self._tensor(rewards)
        cut = torch.from_numpy(truncated & ~terminated)
        if cut.any():
            earned = earned + self.discount * self._rest(info["final_obs"], cut)
        self.begins = ends = torch.from_numpy(terminated | truncated).to(self.device)
        chosen = log_probs.gather(-1, actions).to(self.device).squeeze(-1)
        return observation, begins, actions.squeeze(-1).to(self.device), chosen, values, earned, ends

    def _rest(self, final: Any, cut: Tensor) -> Tensor:
        """What the critic expects after the last observations of episodes that were cut off, elsewhere zero."""
        observation = self.observation.clone()
        for row in cut.nonzero().flatten().tolist():
            observation[row] = self._tensor(final[row])
        _, values, _ = self.policy.step(observation, self.state, torch.zeros_like(self.begins))
        return values.where(cut.to(self.device), torch.zeros_like(values))

    def _note(self, rewards: Tensor, ends: Tensor) -> None:
        self.returns += rewards
        self.finished += self.returns[ends].tolist()
        self.returns[ends] = 0.0

    def _tensor(self, array: Any) -> Tensor:
        return torch.as_tensor(array, dtype=torch.float32, device=self.device)


__all__ = ["CELLS", "NO_MEMORY", "Collector", "Policy", "Rollout"]
