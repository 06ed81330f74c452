"""Every experiment of the laboratory, as a program; at its own settings (slow), with what it measured."""

import doctest
import importlib
import json
import math
import pkgutil
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

import rnnfast
from rnnfast import lab
from rnnfast._program import UserError
from rnnfast.lab import EXPERIMENTS
from rnnfast.lab.hidden_states import stacked
from rnnfast.lab.report import Claim, table
from rnnfast.lab.solutions import LEVELS, SOLUTIONS

pytest.importorskip("matplotlib", reason="figures need matplotlib")
sklearn_decomposition = pytest.importorskip("sklearn.decomposition", reason="projections need scikit-learn")

MODULES = [f"{lab.__name__}.{module.name}" for module in pkgutil.iter_modules(lab.__path__)]

TINY = {
    "gradient-flow": dict(length=8, hidden_size=4, seeds=2),
    "jacobians": dict(hidden_size=6, steps=7, seeds=2),
    "copy-first": dict(lengths=(4, 2), steps=4, hidden_size=4, seeds=2),
    "adding": dict(lengths=(4,), models=("rnn", "gru"), steps=4, hidden_size=4, seeds=1, clip=0.5),
    "solutions": dict(length=9, steps=3, hidden_size=4, seeds=2),
    "clipping": dict(length=6, steps=4, hidden_size=4, seeds=2),
    "directions": dict(length=12, reach=2, steps=3, hidden_size=8, seeds=2),
    "depth": dict(width=40, length=5, steps=3, embedding_size=4, seeds=2),
    "hidden-states": dict(length=4, steps=3, hidden_size=4, seeds=1, sentences=10),
}


@cache
def tiny(name):
    return EXPERIMENTS[name](**TINY[name]).run()


def test_every_experiment_has_a_short_form_here():
    assert set(TINY) == set(EXPERIMENTS)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_it_tells_what_it_found(name):
    kind = EXPERIMENTS[name]
    assert kind.about().endswith("?")
    assert kind.section
    result = tiny(name)
    assert result.ok
    data = json.loads(result.json())
    assert data
    for claim in data.get("claims", []):
        assert claim["text"] in result.summary
        assert claim["measured"] in result.summary
        assert ("Agrees" if claim["holds"] else "DISAGREES") in result.summary
    assert all(len(line) < 300 for line in result.summary.splitlines())


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_its_figures_have_axes_units_and_legends(name):
    for draw in tiny(name).figures.values():
        figure = draw()
        assert figure.get_size_inches()[0] * 100 == 800
        figure.canvas.draw()
        legends = figure.legends + [axes.get_legend() for axes in figure.axes if axes.get_legend()]
        assert legends
        assert all(text.get_text() for legend in legends for text in legend.get_texts())
        assert figure.get_supxlabel() or all(axes.get_xlabel() or axes.get_label() for axes in figure.axes[-1:])
        assert figure.get_supylabel() or figure.axes[0].get_ylabel() or figure.axes[0].get_yticklabels()
        assert all(axes.has_data() for axes in figure.axes)


@pytest.mark.parametrize("name", ["gradient-flow", "copy-first", "hidden-states"])
def test_it_repeats_itself_and_another_seed_differs(name):
    again = EXPERIMENTS[name](**TINY[name]).run()
    assert again.summary == tiny(name).summary
    assert again.json() == tiny(name).json()
    other = EXPERIMENTS[name](**TINY[name], seed=1).run()
    assert other.json() != tiny(name).json()


def test_a_run_that_diverged_is_null_in_json_and_drawn():
    result = EXPERIMENTS["clipping"](**TINY["clipping"] | dict(rate=1e20, steps=40)).run()
    data = json.loads(result.json())
    assert None in data["runs"]["no clipping"]["errors"]
    for draw in result.figures.values():
        draw().canvas.draw()


MISTAKES = {
    "gradient-flow": [(dict(layers=("elman",)), "--layers: got elman, expected one of rnn, lstm, .*")],
    "jacobians": [(dict(scales=(-1.0,)), "--scales: got -1.0, expected at least 0")],
    "copy-first": [
        (dict(lengths=(1,)), "--lengths: got 1, expected at least 2"),
        (dict(lengths=(5, 5)), r"--lengths: got 5 5, expected each once"),
        (dict(models=()), "--models: got no value, expected one or more"),
    ],
    "directions": [
        (dict(length=8), "--length: got 8, expected more than twice --reach, 8"),
        (dict(hidden_size=16), r"--hidden-size: got 16; parameters: got \d+, the nearest there is has \d+ .*"),
    ],
    "depth": [
        (dict(depths=(2, 2)), "--depths: got 2 2, expected each once"),
        (
            dict(width=8, embedding_size=1, depths=(1, 20)),
            r"--width: got 8; parameters: got \d+, the nearest there is has \d+ \(20 layers\)",
        ),
    ],
}


@pytest.mark.parametrize(("name", "settings", "message"), [(n, *m) for n, of in MISTAKES.items() for m in of])
def test_a_mistake_gets_one_clear_line(name, settings, message):
    with pytest.raises(UserError, match=f"^{message}$"):
        EXPERIMENTS[name](**settings).run()


def test_the_text_says_and_the_numbers_answer():
    assert str(Claim("it helps", True, "1 to 2")) == "The text: it helps. Agrees: 1 to 2."
    assert str(Claim("it helps", False, "2 to 1")) == "The text: it helps. DISAGREES: 2 to 1."
    assert table(["", "b"], [["long", "1"], ["x", "100"]]) == "        b\nlong    1\nx     100"


def test_what_the_solutions_are_said_to_do_is_the_texts():
    said = {name: solution.said for name, solution in SOLUTIONS.items() if solution.said is not None}
    assert said == {
        "gradient clipping": "none",
        "orthogonal initial W_hh": "modest",
        "LSTM": "very effective",
        "GRU": "very effective",
        "skip connections": "effective",
        "attention": "very effective",
    }
    assert set(said.values()) <= set(LEVELS)


def test_pca_is_that_of_the_singular_vectors():
    states = torch.randn(40, 6) * torch.tensor([5.0, 3, 1, 1, 1, 1])
    found = lab.project(states)
    centred = states - states.mean(0)
    expected = centred @ torch.linalg.svd(centred).Vh[:2].T
    signs = (found * expected).sum(0).sign()
    torch.testing.assert_close(found, expected * signs, rtol=1e-3, atol=1e-3)


def test_tsne_keeps_groups_apart():
    groups = torch.arange(3).repeat_interleave(20)
    states = torch.randn(60, 5) * 0.1 + 10 * torch.eye(3, 5)[groups]
    found = lab.project(states, "tsne")
    assert torch.equal(found, lab.project(states, "tsne"))
    nearest = (torch.cdist(found, found) + 1e9 * torch.eye(60)).argmin(1)
    assert (groups[nearest] == groups).float().mean() > 0.9


def test_a_probe_reads_what_is_there():
    labels = (torch.arange(100) % 3 > 0).long()
    states = torch.randn(100, 3, 4)
    states[:, 2, 1] += 20 * labels
    before, _, at = lab.readable(states, labels)
    assert at == 1
    assert before < 0.9


def test_stacked_states_keep_their_labels_and_positions():
    states, labels, positions = stacked(torch.arange(12.0).view(2, 3, 2), torch.tensor([7, 9]))
    assert states[4].tolist() == [8, 9]
    assert labels.tolist() == [7, 7, 7, 9, 9, 9]
    assert positions.tolist() == [0, 1, 2, 0, 1, 2]


def test_states_are_drawn_in_both_colourings():
    points, labels, positions = torch.randn(9, 2), torch.arange(9) % 3, torch.arange(9)
    figure = lab.draw_states(points, labels, positions, names=["a", "b", "c"], title="t")
    by_label, by_position = figure.axes[:2]
    assert [len(dots.get_offsets()) for dots in by_label.collections] == [3, 3, 3]
    (dots,) = by_position.collections
    np.testing.assert_allclose(dots.get_offsets(), points)
    np.testing.assert_array_equal(dots.get_array(), positions)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b", "c"]


def test_mistakes_about_states_get_one_clear_line():
    with pytest.raises(ValueError, match=r"^method: got 'umap', expected one of 'pca', 'tsne'$"):
        lab.project(torch.zeros(4, 4), "umap")
    with pytest.raises(ValueError, match=r"^states: got shape \(4, 1\), expected \(N, H\), both at least 2$"):
        lab.project(torch.zeros(4, 1))
    with pytest.raises(
        ValueError, match=r"got shapes \(4, 2\), \(3,\), \(4,\), expected \(N, 2\), \(N,\), \(N,\)$"
    ):
        lab.draw_states(torch.zeros(4, 2), torch.zeros(3), torch.zeros(4))


def test_what_is_optional_is_loaded_late_and_its_lack_told_in_one_line():
    program = """
import sys
class Absent:
    def find_spec(name, path, target=None):
        if name in ("matplotlib", "sklearn", "tqdm"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent)
import torch, rnnfast
from rnnfast import lab
from rnnfast._program import UserError
layer = rnnfast.RNN(3, 4, batch_first=True)
flow = lab.gradient_flow(layer, torch.randn(1, 5, 3))
result = lab.EXPERIMENTS["jacobians"](steps=3, seeds=1, hidden_size=4).run()
for call in (flow.draw, *result.figures.values(), lambda: lab.project(torch.zeros(3, 3))):
    try:
        call()
    except UserError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = ["needs matplotlib: pip install 'rnnfast[lab]'"] * 2 + ["needs sklearn: pip install 'rnnfast[lab]'"]
    assert done.stdout.splitlines() == lines


def test_importing_it_loads_nothing_optional():
    program = (
        "import rnnfast.lab, sys; print([m for m in ('matplotlib', 'sklearn', 'numpy.f2py') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    module = importlib.import_module(name)
    result = doctest.testmod(module, extraglobs=dict(torch=torch, nn=nn, rnnfast=rnnfast, lab=lab, **vars(lab)))
    assert result.failed == 0


def data_of(name):
    return json.loads(EXPERIMENTS[name]().run().json())


@pytest.mark.slow
def test_gradients_vanish_in_gates_with_torchs_initial_values_nearly_as_in_a_vanilla_rnn():
    layers = data_of("gradient-flow")["layers"]
    ratio = {name: sorted(of["ratio"])[len(of["ratio"]) // 2] for name, of in layers.items()}
    assert ratio["rnn"] < 1e-11
    assert ratio["lstm"] < 1e-8
    assert ratio["gru"] < 1e-8
    assert 1e-6 < ratio["rnn-orthogonal"] < 1e-3
    assert ratio["lstm-chrono"] > 0.03
    assert ratio["gru-chrono"] > 0.01


@pytest.mark.slow
def test_the_derivative_of_tanh_tames_what_explodes_without_it():
    found = {
        (p["scale"], p["tanh"]): [of[-1] for of in p["log10_frobenius"]] for p in data_of("jacobians")["products"]
    }
    assert max(found[0.5, False] + found[0.5, True]) < -22
    assert min(found[1.5, False]) > 15
    assert max(found[1.5, True]) < 8
    assert max(found[1.0, True]) < 0 < min(found[1.0, False])


@pytest.mark.slow
def test_gates_forget_what_came_first_unless_they_are_biased_to_keep_it():
    lengths = data_of("copy-first")["lengths"]
    for length in ("30", "50", "100"):
        for gated in ("lstm", "gru"):
            assert lengths[length][gated]["solved"] == 0
            assert lengths[length][f"{gated}-chrono"]["solved"] == 1
    assert lengths["10"]["lstm"]["solved"] == lengths["10"]["gru"]["solved"] == lengths["10"]["rnn"]["solved"] == 1
    assert min(lengths["30"]["rnn"]["errors"]) < 0.1
    assert lengths["100"]["rnn"]["solved"] < 0.5
    assert all(error > 0.9 for of in lengths.values() for error in of["feedforward"]["errors"])


@pytest.mark.slow
def test_gates_add_what_is_far_apart_and_a_vanilla_rnn_does_not():
    found = data_of("adding")
    lengths = found["lengths"]
    for length in ("30", "50"):
        assert lengths[length]["rnn"]["solved"] == 0
        assert lengths[length]["lstm"]["solved"] == lengths[length]["gru"]["solved"] == 1
    assert lengths["100"]["gru"]["solved"] == 1
    assert {"gru", "lstm-chrono", "gru-chrono"} <= set(found["solve_all"])
    assert all(error > 0.8 / 6 for of in lengths.values() for error in of["feedforward"]["errors"])


@pytest.mark.slow
def test_what_helps_depends_on_the_task():
    tasks = data_of("solutions")["tasks"]
    effects = {task: {name: of["effect"] for name, of in found.items()} for task, found in tasks.items()}
    for task in ("copy-first", "adding"):
        assert effects[task]["attention"] == "very effective"
        assert effects[task]["GRU, chrono biases"] == effects[task]["LSTM, chrono biases"] == "very effective"
        assert effects[task]["gradient clipping"] in ("none", "modest")
    assert effects["copy-first"]["LSTM"] == effects["copy-first"]["GRU"] == "none"
    assert effects["copy-first"]["skip connections"] == "very effective"
    assert effects["adding"]["GRU"] == "very effective"
    assert effects["adding"]["skip connections"] == effects["adding"]["orthogonal initial W_hh"] == "none"


@pytest.mark.slow
def test_clipping_rescues_a_network_whose_gradients_explode():
    runs = data_of("clipping")["runs"]
    error = {
        name: float(np.median([math.inf if e is None else e for e in of["errors"]])) for name, of in runs.items()
    }
    assert error["no clipping"] > 0.25
    assert max(error["global norm"], error["per step of BPTT"]) < 0.5 * error["no clipping"]
    first = {name: min(norms[0] for norms in of["norms"]) for name, of in runs.items()}
    assert first["per step of BPTT"] < 0.5 * first["no clipping"]


@pytest.mark.slow
def test_both_directions_see_what_one_cannot():
    found = data_of("directions")
    models = found["models"]
    assert abs(models["one direction"]["parameters"] / models["both directions"]["parameters"] - 1) < 0.02
    assert max(models["both directions"]["errors"]) < 0.05
    assert min(models["one direction"]["errors"]) > 0.95 * found["causal_floor"]
    assert max(models["one direction, answers later"]["errors"]) < 0.05


@pytest.mark.slow
def test_four_layers_are_not_better_than_one_of_as_many_parameters():
    models = list(data_of("depth")["models"].values())
    sizes = [model["parameters"] for model in models]
    assert max(sizes) < 1.02 * min(sizes)
    one, two, four = [model["errors"] for model in models]
    assert min(four) > max(one)
    assert abs(np.median(two) - np.median(one)) < 0.1


@pytest.mark.slow
def test_states_know_the_more_the_later():
    found = data_of("hidden-states")
    assert max(found["errors"]) < 0.08
    for known in found["readable"]:
        assert known[0] < 0.75 < 0.9 < known[-1]
