"""The gradient laboratory: why recurrent networks forget, and what helps.

Each experiment is a program of the command line (``python -m rnnfast lab NAME``), listed in :data:`EXPERIMENTS`,
and its core a function for layers and models of one's own, which returns plain data that can draw itself:

* how much of a gradient arrives at an earlier step: :func:`gradient_flow`, :func:`jacobian_flow`,
  :func:`jacobian_products`, and what each step adds to the gradient of W_hh: :func:`weight_contributions`;
* the norms of dL/dh_t in ordinary training: :func:`record_gradients`;
* models that learn the same task with the same budget: :func:`compare`, :func:`remember`;
* gradients before and after clipping: :func:`clip_gradients`;
* states in two dimensions: :func:`project`, :func:`draw_states`, and what they know: :func:`readable`.

Figures need matplotlib, projections scikit-learn; both come with ``rnnfast[lab]`` and are imported when used.
"""

from .._program import Program
from .candidates import CANDIDATES, AttentiveRNN, SkipRNN
from .clipping import Clipped, ClippingExperiment, clip_gradients
from .comparison import Candidate, Comparison, compare, count
from .contributions import Contributions, StepTerms, step_terms, weight_contributions
from .depth import DepthExperiment, width_for
from .directions import DirectionsExperiment
from .flow import GradientFlow, gradient_flow, jacobian_flow
from .gradients import GradientFlowExperiment
from .hidden_states import HiddenStatesExperiment, draw_states, project, readable
from .jacobians import JacobianProducts, JacobiansExperiment, jacobian_products
from .memory import AddingExperiment, CopyFirstExperiment, Memory, remember
from .recording import Recording, record_gradients
from .solutions import SolutionsExperiment, effect
from .tasks import Adding, Characters, CopyFirst, Opinions, Smoothing, Task
from .training import Run, evaluate, train

EXPERIMENTS: dict[str, type[Program]] = {
    "gradient-flow": GradientFlowExperiment,
    "jacobians": JacobiansExperiment,
    "copy-first": CopyFirstExperiment,
    "adding": AddingExperiment,
    "solutions": SolutionsExperiment,
    "clipping": ClippingExperiment,
    "directions": DirectionsExperiment,
    "depth": DepthExperiment,
    "hidden-states": HiddenStatesExperiment,
}

__all__ = [
    "CANDIDATES",
    "EXPERIMENTS",
    "Adding",
    "AddingExperiment",
    "AttentiveRNN",
    "Candidate",
    "Characters",
    "Clipped",
    "ClippingExperiment",
    "Comparison",
    "Contributions",
    "CopyFirst",
    "CopyFirstExperiment",
    "DepthExperiment",
    "DirectionsExperiment",
    "GradientFlow",
    "GradientFlowExperiment",
    "HiddenStatesExperiment",
    "JacobianProducts",
    "JacobiansExperiment",
    "Memory",
    "Opinions",
    "Recording",
    "Run",
    "SkipRNN",
    "Smoothing",
    "SolutionsExperiment",
    "StepTerms",
    "Task",
    "clip_gradients",
    "compare",
    "count",
    "draw_states",
    "effect",
    "evaluate",
    "gradient_flow",
    "jacobian_flow",
    "jacobian_products",
    "project",
    "readable",
    "record_gradients",
    "remember",
    "step_terms",
    "train",
    "weight_contributions",
    "width_for",
]
