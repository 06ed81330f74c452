"""The agent: that its one call is what it lived through, that episodes are apart, and that it learns."""

import random
import sys

import numpy
import pytest
import torch
import torch.nn.functional as F

from rnnfast._program import UserError
from rnnfast.models.backbone import each
from rnnfast.recipes.examples.agent import Agent
from rnnfast.recipes.examples.cartpole import environments
from rnnfast.recipes.examples.policy import CELLS, NO_MEMORY, Collector, Policy
from rnnfast.recipes.examples.ppo import Objective

pytest.importorskip("gymnasium", reason="the environments are gymnasium's")
pytest.importorskip("matplotlib", reason="figures need matplotlib")


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def lived(cell, count=5, steps=40, rollouts=2):
    """A policy and the last of some rollouts, with a state carried into it."""
    policy = Policy(2, 2, 16, cell)
    collector = Collector(environments(count), policy, 0.9, torch.Generator().manual_seed(1), seed=2)
    for _ in range(rollouts):
        rollout = collector.rollout(steps)
    return policy, collector, rollout


def log_probs(logits, actions):
    return logits.log_softmax(-1).gather(-1, actions.unsqueeze(-1)).squeeze(-1)


@pytest.mark.parametrize("cell", [*CELLS, NO_MEMORY])
def test_one_call_gives_what_was_lived_step_by_step(cell):
    policy, collector, rollout = lived(cell)
    assert rollout.begins[1:].any()  # episodes end within it
    logits, values, last = policy(rollout.observations, rollout.state, rollout.begins)
    torch.testing.assert_close(log_probs(logits, rollout.actions), rollout.log_probs, rtol=0, atol=1e-6)
    torch.testing.assert_close(values, rollout.values, rtol=0, atol=1e-6)
    if cell == NO_MEMORY:
        assert last is None
        return
    each(lambda a, b: torch.testing.assert_close(a, b, rtol=0, atol=1e-6), last, collector.state)
    # Not because the state does not matter:
    other, _, _ = policy(rollout.observations, rollout.state, torch.zeros_like(rollout.begins))
    assert (log_probs(other, rollout.actions) - rollout.log_probs).abs().max() > 1e-5
    fresh, _, _ = policy(rollout.observations, None, rollout.begins)
    assert (log_probs(fresh, rollout.actions)[0] - rollout.log_probs[0]).abs().max() > 1e-5


@pytest.mark.parametrize("cell", CELLS)
def test_no_gradient_crosses_the_end_of_an_episode(cell):
    policy, _, rollout = lived(cell)
    x = rollout.observations.clone().requires_grad_()
    state = each(lambda s: s.clone().requires_grad_(), rollout.state)
    logits, values, _ = policy(x, state, rollout.begins)
    t, b = rollout.begins[1:-1].nonzero()[-1].tolist()
    t += 1  # where an episode begins that goes on after
    (log_probs(logits, rollout.actions)[t + 1, b] + values[t + 1, b]).backward()
    assert (x.grad[t : t + 2, b] != 0).any(-1).all()
    x.grad[t : t + 2, b] = 0
    assert not x.grad.any()
    each(lambda s: (_ for _ in ()).throw(AssertionError) if s.grad.any() else s, state)


def test_a_rollout_goes_on_from_the_last_one():
    policy, collector, first = lived("lstm", rollouts=1)
    carried, observation = collector.state, collector.observation
    second = collector.rollout(3)
    assert first.state is None
    assert not any(s.requires_grad for s in second.state)
    each(torch.testing.assert_close, second.state, carried)
    assert torch.equal(second.observations[0], observation)
    assert torch.equal(second.begins[0], first.ends[-1])
    assert torch.equal(first.begins[1:], first.ends[:-1])
    assert first.begins[0].all()
    _, value, _ = policy.step(observation, carried, first.ends[-1])
    torch.testing.assert_close(first.last_values, value.detach())


def test_only_positions_are_seen_and_the_first_ones_after_an_end():
    places = environments(4)
    observation, _ = places.reset(seed=3)
    assert observation.shape == (4, 2)
    for _ in range(60):
        states = numpy.array([place.unwrapped.state for place in places.envs])
        numpy.testing.assert_allclose(observation, states[:, [0, 2]] / [2.4, numpy.radians(12)], rtol=1e-5)
        observation, _, terminated, truncated, info = places.step(numpy.ones(4, dtype=int))
        for row in (terminated | truncated).nonzero()[0]:
            assert (abs(info["final_obs"][row]) > 1).any()
            assert (abs(observation[row]) <= 0.05 / numpy.radians(12)).all()
    places.close()


class Script:
    """Two environments: the first ends by itself after two steps, the second is cut off."""

    num_envs = 2

    def reset(self, seed):
        self.time = 0
        return numpy.zeros((2, 1), dtype=numpy.float32), {}

    def step(self, actions):
        self.time += 1
        end = self.time == 2
        observation = numpy.full((2, 1), 0.0 if end else self.time, dtype=numpy.float32)
        final = numpy.full(2, None, dtype=object)
        if end:
            final[0], final[1] = numpy.float32([[7], [9]])
        info = {"final_obs": final}
        return observation, numpy.array([1.0, 3.0]), numpy.array([end, False]), numpy.array([False, end]), info


@pytest.mark.parametrize("cell", ["gru", NO_MEMORY])
def test_what_is_cut_off_is_worth_what_the_critic_expects_of_the_rest(cell):
    policy = Policy(1, 2, 8, cell)
    collector = Collector(Script(), policy, 0.75, torch.Generator(), seed=0)
    rollout = collector.rollout(4)
    seen = torch.tensor([0.0, 1.0, 9.0]).reshape(3, 1, 1)
    _, values, _ = policy(seen, None, torch.zeros(3, 1, dtype=torch.bool))
    expected = torch.tensor([[0.25, 0.75]] * 4)
    expected[1, 1] += 0.75 * values[2, 0].item()
    torch.testing.assert_close(rollout.rewards, expected)
    assert rollout.ends.tolist() == [[False] * 2, [True] * 2, [False] * 2, [False] * 2]
    assert collector.finished == [2.0, 6.0]


def test_advantages_against_their_definition():
    _, _, rollout = lived("gru", steps=30)
    discount, smoothing = 0.9, 0.8
    found = rollout.advantages(discount, smoothing)
    values = torch.cat((rollout.values, rollout.last_values[None]))
    for b in range(5):
        for t in range(30):
            total, weight = 0.0, 1.0
            for k in range(t, 30):
                ends = bool(rollout.ends[k, b])
                rest = 0.0 if ends else discount * values[k + 1, b].item()
                total += weight * (rollout.rewards[k, b].item() + rest - values[k, b].item())
                weight *= discount * smoothing
                if ends:
                    break
            assert found[t, b].item() == pytest.approx(total, abs=1e-5)


def test_the_objective_where_nothing_has_changed_yet_and_where_too_much_has():
    policy, _, rollout = lived("gru")
    objective, rows = Objective(entropy=0.3, critic=0.7, clip=0.1), torch.tensor([3, 1])
    advantages = rollout.advantages(0.9, 0.8)
    loss = objective.loss(policy, rollout, advantages, rows)
    logits, values, _ = policy(rollout.observations, rollout.state, rollout.begins)
    probabilities = logits.softmax(-1)[:, rows]
    entropy = -(probabilities * probabilities.log()).sum(-1).mean()
    error = F.mse_loss(values[:, rows], (advantages + rollout.values)[:, rows])
    # The actor's part is the mean of normalised advantages, 0.
    torch.testing.assert_close(loss, 0.7 * error - 0.3 * entropy, rtol=1e-4, atol=1e-5)

    def gradient(moved):
        before = rollout.log_probs - moved
        changed = type(rollout)(**(vars(rollout) | {"log_probs": before}))
        ups = torch.ones_like(advantages)
        ups[::2] = -1
        actor_only = Objective(entropy=0.0, critic=0.0, clip=0.1)
        policy.zero_grad()
        actor_only.loss(policy, changed, ups, rows).backward()
        return policy.actor.weight.grad.clone(), (ups[:, rows] < 0)

    for moved, counts in ((0.5, -1.0), (-0.5, 1.0)):  # likelier: only what should not be counts; and conversely
        found, negative = gradient(moved)
        gains = torch.where(negative, -1.0, 1.0)
        gains = (gains - gains.mean()) / (gains.std() + 1e-8)
        chosen = log_probs(policy(rollout.observations, rollout.state, rollout.begins)[0], rollout.actions)[
            :, rows
        ]
        kept = negative if counts < 0 else ~negative
        policy.zero_grad()
        (-(torch.exp(torch.tensor(moved)) * gains * chosen)[kept].sum() / kept.numel()).backward()
        torch.testing.assert_close(found, policy.actor.weight.grad, rtol=1e-3, atol=1e-6)


def test_it_learns_in_a_moment_what_takes_memory():
    result = Agent(rollouts=12, environments=12, episodes=20, hidden_size=32, rate=1e-2).run()
    remembers, does_not = result.data["agents"]
    assert does_not["mean return"] < 70
    assert remembers["mean return"] > 100
    assert len(remembers["curve"]) == 12
    assert len(remembers["returns"]) == 20
    assert result.ok == (remembers["mean return"] >= 475)
    assert "gru" in result.summary
    figure = result.figures["agent"]()
    assert figure.axes[0].get_xlabel()
    assert len(figure.axes[0].lines) == 3


def test_the_same_seed_gives_the_same_agent():
    first, second = [Agent(cells=("lstm",), rollouts=2, episodes=3, steps=20).run().data for _ in range(2)]
    assert first["agents"][0]["curve"] == pytest.approx(second["agents"][0]["curve"], abs=0, nan_ok=True)
    assert first["agents"][0]["returns"] == second["agents"][0]["returns"]


def test_mistakes(monkeypatch):
    with pytest.raises(UserError, match="--cells: got elman, expected one of gru, lstm, rnn, none"):
        Agent(cells=("elman",))
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(UserError, match=r"needs gymnasium: pip install 'rnnfast\[recipes\]'"):
        Agent().run()


@pytest.mark.slow
def test_the_task_is_solved():
    seed = random.randrange(1000)
    result = Agent(seed=seed).run()
    print(f"seed {seed}:", result.summary)
    remembers, does_not = result.data["agents"]
    assert remembers["mean return"] >= 475
    assert does_not["mean return"] < 100
