"""How hard do L_s, L_u and L_c pull at the weights that they share? Norms of their gradients, step by step of a real retraining.

    python benchmarks/gradient_shares.py RUN                        RUN: a folder of `semivss run` with a student and pseudo labels
    python benchmarks/gradient_shares.py RUN -o semi.contrast.weight=1
    python benchmarks/gradient_shares.py --quick                    a few steps on the toy world, from a student made for it

RUN's recipe, with the overrides, is retrained for some steps; before each of them the gradient of every weighted term with respect to
the segmenter's weights is taken alone. The representation head, which L_c alone trains, is left out. One JSON row a term: the median
over the last half of the steps, and its ratio to L_u's.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
from pathlib import Path

import torch

from semivss.data.pseudo import open_pseudo
from semivss.pipeline import demo_recipe, run
from semivss.plan import retraining_recipe
from semivss.recipe import Recipe, load_recipe
from semivss.train.interrupt import Interrupt
from semivss.train.loop import Run
from semivss.train.method import Given
from semivss.train.objective import SemiObjective
from semivss.train.processes import start_fabric
from semivss.train.steps import train_step

QUICK = [
    "train.steps=4",
    "train.evaluate_every=100",
    "data.train.0.toy={clips=2, frames=2}",
    "data.unlabelled.0.toy={clips=2, frames=2, first_clip=4}",
    "semi.contrast.confidence=0",
    "data.val=",
    'data.absent_classes="allow"',
]
Norms = dict[str, list[float]]  # term -> one number a step


def main() -> None:
    """Retrain for some steps and print the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?")
    parser.add_argument("-o", "--override", action="append", default=[])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.run
        if options.quick:
            folder, options.steps = Path(scratch) / "run", 4
            run(demo_recipe(QUICK), folder, until="pseudo-label")
        if folder is None:
            parser.error("name a run folder, or say --quick")
        report(norms(load_recipe(folder / "recipe.toml", options.override), folder, Path(scratch) / "retrained", options.steps), options)


def norms(recipe: Recipe, folder: Path, out: Path, steps: int) -> Norms:
    """Gradient norms of each term in `steps` steps of retraining RUN's student."""
    recipe = retraining_recipe(recipe)
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"val": None})})
    pseudo = [open_pseudo(folder / "pseudo")] if recipe.semi.mode == "offline" else None
    with Interrupt() as interrupt:
        training = Run(recipe, out, start_fabric(recipe), interrupt, Given(folder / "student" / "model", pseudo))
    found: Norms = {"L_s": [], "L_u": [], "L_c": []}
    whole = SemiObjective.forward

    def forward(self: SemiObjective, *arguments: object) -> dict[str, torch.Tensor]:
        terms = whole(self, *arguments)
        shared = [weight for weight in self.segmenter.parameters() if weight.requires_grad]
        for name in found:
            own = [term for key, term in terms.items() if kind(key) == name and term.requires_grad]
            gradients = torch.autograd.grad(sum(own), shared, retain_graph=True, allow_unused=True) if own else ()
            found[name].append(float(torch.stack([torch.zeros(()), *(part.norm() for part in gradients if part is not None)]).norm()))
        return terms

    SemiObjective.forward = forward
    batches = iter(training.method.batches(0, 0, 1))
    for step in range(steps):
        train_step(training.fabric, training.training, iter([next(batches)]), recipe.train, step)
    return found


def kind(term: str) -> str:
    """L_s, L_u or L_c, to which a term of the objective belongs."""
    return "L_c" if term == "contrast" else "L_u" if term.startswith("unlabelled_") else "L_s"


def report(found: Norms, options: argparse.Namespace) -> None:
    """A row a term."""
    late = {name: statistics.median(values[len(values) // 2 :]) for name, values in found.items()}
    machine = f"{platform.machine()}, {os.cpu_count()} cores, OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'unset')}"
    for name, value in late.items():
        values = found[name][len(found[name]) // 2 :]
        row = {"what": f"gradient norm of {name}", "value": round(value, 4), "unit": "", "ratio": round(value / late["L_u"], 4)}
        spread = [round(min(values), 4), round(max(values), 4)]
        more = {"against": "L_u", "spread": spread, "steps": options.steps, "overrides": options.override, "machine": machine}
        print(json.dumps(row | more), flush=True)


if __name__ == "__main__":
    main()
