"""An agent that must remember."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ..._program import Program, Result, needs, progress, setting
from ...lab.figures import panels
from ...lab.report import table
from .cartpole import NAME, environments
from .policy import CELLS, NO_MEMORY, Collector, Policy
from .ppo import Objective

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The mean return of this many episodes, one after the other, that is good enough to stop training.
ENOUGH, RECENT = 490.0, 100
# Between the seeds of training and those of held-out episodes.
HELD_OUT = 1_000_000


@dataclass(frozen=True)
class Trained:
    """An agent and how it came about.

    Args:
        policy: what it does.
        curve: after each rollout the mean return of the episodes that ended in it, NaN if none did.
        seconds: that training took.
    """

    policy: Policy
    curve: list[float]
    seconds: float


@dataclass(frozen=True)
class Agent(Program):
    """Balances a pole on a cart whose speeds it does not see, beside an agent without memory.

    gymnasium's CartPole-v1 without the two velocities, learned by proximal policy optimisation. Episodes end
    within rollouts: the recurrence runs over each rollout in one call that begins anew, from zero, where an
    episode does. An episode returns the number of its steps, 500 at most; 475 on average solves the task.
    """

    section = "RNN Applications"
    examples = ("--cells lstm", "--rollouts 40 --seed 1")

    cells: tuple[str, ...] = setting(("gru", NO_MEMORY), "of the agents", choices=(*CELLS, NO_MEMORY))
    hidden_size: int = setting(64, "units", least=1)
    environments: int = setting(16, "in which an agent acts side by side", least=1)
    steps: int = setting(128, "of a rollout", least=2)
    rollouts: int = setting(150, "to learn from at most, one after the other", least=1)
    rate: float = setting(5e-3, "learning rate, falling to 0", least=0)
    episodes: int = setting(100, "held-out ones, in which the likeliest action is taken", least=1)

    def run(self) -> Result:
        """Trains an agent for each cell and evaluates it."""
        solved = needs("gymnasium", "recipes").spec(NAME).reward_threshold
        agents = {cell: self.train(cell) for cell in self.cells}
        rows = []
        for cell, agent in agents.items():
            returns = self.evaluate(agent.policy)
            lived = len(agent.curve) * self.steps * self.environments
            found: dict[str, Any] = {"cell": cell, "steps": lived, "mean return": sum(returns) / len(returns)}
            found |= {"least return": min(returns), "seconds": agent.seconds, "returns": returns}
            rows.append(found | {"curve": agent.curve})
        lines = [f"On {self.episodes} held-out episodes ({solved:g} on average solves the task):", ""]
        formats = {"cell": "", "mean return": ".1f", "least return": ".0f", "steps": ",", "seconds": ".1f"}
        shown = [[format(r[name], how) for name, how in formats.items()] for r in rows]
        lines.append(table(["memory", "mean return", "least", "steps of training", "seconds"], shown))
        data = {"settings": dataclasses.asdict(self), "solved at": solved, "agents": rows}
        done = all(r["mean return"] >= solved for r in rows if r["cell"] != NO_MEMORY)
        return Result("\n".join(lines), data, {"agent": lambda: self.draw(agents, solved)}, ok=done)

    def train(self, cell: str) -> Trained:
        """An agent with memory of one kind."""
        begin, objective = time.perf_counter(), Objective()
        torch.manual_seed(self.seed)
        numbers = torch.Generator().manual_seed(self.seed)
        places = environments(self.environments)
        policy = self.policy(places, cell)
        optimizer = torch.optim.Adam(policy.parameters(), self.rate)
        rates = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=self.rollouts)
        collector = Collector(places, policy, objective.discount, numbers, self.seed, self.device)
        curve: list[float] = []
        for _ in progress(range(self.rollouts), f"memory: {cell}", "rollout"):
            before = len(collector.finished)
            objective.improve(policy, optimizer, collector.rollout(self.steps), numbers)
            rates.step()
            ended = collector.finished[before:]
            curve.append(sum(ended) / len(ended) if ended else float("nan"))
            recent = collector.finished[-RECENT:]
            if len(recent) == RECENT and sum(recent) >= ENOUGH * RECENT:
                break
        places.close()
        return Trained(policy, curve, time.perf_counter() - begin)

    def policy(self, places: Any, cell: str) -> Policy:
        """An untrained one."""
        observed, actions = places.single_observation_space.shape[0], int(places.single_action_space.n)
        return Policy(observed, actions, self.hidden_size, cell).to(self.device)

    @torch.no_grad()
    def evaluate(self, policy: Policy) -> list[float]:
        """The returns of held-out episodes, one in each of as many environments."""
        places = environments(self.episodes)
        observation, _ = places.reset(seed=self.seed + HELD_OUT)
        state, begins = None, torch.zeros(self.episodes, dtype=torch.bool, device=self.device)
        returns, running = torch.zeros(self.episodes), torch.ones(self.episodes, dtype=torch.bool)
        while running.any():
            seen = torch.as_tensor(observation, dtype=torch.float32, device=self.device)
            logits, _, state = policy.step(seen, state, begins)
            observation, rewards, terminated, truncated, _ = places.step(logits.argmax(-1).cpu().numpy())
            returns += torch.from_numpy(rewards).float() * running
            running &= ~torch.from_numpy(terminated | truncated)
        places.close()
        return returns.tolist()

    def draw(self, agents: dict[str, Trained], solved: float) -> Figure:
        """Return by steps lived, a curve for each agent."""
        figure, (axes,) = panels()
        each = self.steps * self.environments
        for cell, agent in agents.items():
            label = "no memory" if cell == NO_MEMORY else cell.upper()
            axes.plot([each * (i + 1) for i in range(len(agent.curve))], agent.curve, label=label)
        axes.axhline(solved, color="0.4", linestyle="--", label="solved")
        axes.set(xlabel="steps in all environments", ylabel="mean return of episodes", ylim=(0, 520))
        axes.set(title=f"{NAME} without velocities")
        axes.legend(loc="center right")
        return figure


__all__ = ["Agent", "Trained"]
