"""The cart and its pole, of which only positions are seen."""

from __future__ import annotations

from typing import Any

from ..._program import needs

NAME = "CartPole-v1"
# Of cart position, cart velocity, pole angle and its velocity: what is left.
SEEN = (0, 2)


def environments(count: int) -> Any:
    """gymnasium's CartPole-v1, `count` of them side by side, their observations without the velocities.

    How fast cart and pole move, and so which way to push, takes at least two observations: what acts must
    remember. Each step gives 1, an episode ends when the pole falls (after about 20 steps of random pushes), when
    the cart leaves its track, or is cut off after 500 steps. Where one ended the next begins in the same step: the
    observation is its first one, and the last one of the other is in ``info["final_obs"]``. Positions are in
    units of the track's half and of the angle at which the pole counts as fallen.

    Raises:
        UserError: where there is no gymnasium.

    Example:
        >>> environments(3).reset(seed=0)[0].shape
        (3, 2)
    """
    gymnasium, numpy = needs("gymnasium", "recipes"), needs("numpy", "recipes")
    seen = list(SEEN)

    def positions(environment: Any) -> Any:
        limits = environment.observation_space.high[seen] / 2  # of the space, twice where an episode ends
        space = gymnasium.spaces.Box(-2, 2, limits.shape, numpy.float32)
        return gymnasium.wrappers.TransformObservation(environment, lambda state: state[seen] / limits, space)

    return gymnasium.make_vec(
        NAME,
        num_envs=count,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": gymnasium.vector.AutoresetMode.SAME_STEP},
        wrappers=[positions],
    )


__all__ = ["NAME", "SEEN", "environments"]
