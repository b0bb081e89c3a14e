"""A recipe's training in, one line out, before it begins: the memory that a step is expected to take, and what there is."""

from pathlib import Path

import torch

from semivss.accelerator import choose_accelerator
from semivss.cost.forward_cost import allocator_reserve
from semivss.cost.recipe_cost import Machine, training_memory
from semivss.data.source import open_source
from semivss.infer.memory import resident
from semivss.ranks import machine_processes, world_size
from semivss.recipe import Recipe
from semivss.wording import readable

_CONTAINER = Path("/sys/fs/cgroup")  # where Linux tells a container its limits


def memory_line(recipe: Recipe, title: str) -> str:
    """Such as "train student: 2.1 GB of memory expected (866 MB held already, activations 1.1 GB, ...), 21 GB free", and what helps if not.

    Counted from shapes in a second or less for a small model; on a CPU with what the process holds now and what its allocator keeps of
    freed blocks. Loader processes come on top. Raises RecipeError as `recipe_costs` does.
    """
    device = choose_accelerator()
    labels = open_source(recipe.data.train[0], recipe.data.policy).label_set
    parts = dict(training_memory(recipe, labels, Machine(world_size(), "cpu" if device == "cpu" else "gpu")))
    held = 0
    if device == "cpu":
        parts["activations"] += allocator_reserve(parts["activations"])
        held = resident() if Path("/proc/self/status").exists() else 0
    needed, free = sum(parts.values()), _free(device)
    if free is not None and device == "cpu":
        free //= machine_processes()  # that train together, each with a share of the machine's memory
    listed = [f"{readable(held)} held already"] if held else []
    listed += [f"{name} {readable(parts[name])}" for name in sorted(parts, key=lambda name: -parts[name])[:3]]
    told = f"{title}: {readable(held + needed)} of memory expected ({', '.join(listed)})"
    if free is None:
        return told
    told += f", {readable(free)} free"
    if needed <= free:
        return told
    remedies = [] if recipe.model.recompute else ["model.recompute = true"]
    remedies += ['train.precision = "bf16"'] if recipe.train.precision == "32" else []
    remedies += ["a lower train.batch with a higher train.accumulate", "a smaller data.augment.crop"]
    return f"{told}: it may not fit; what helps: {' or '.join(remedies[:3])}"


def _free(device: str) -> int | None:
    """Bytes, within what a container may take; none where the system does not tell."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    listed = Path("/proc/meminfo")
    lines = listed.read_text().splitlines() if device == "cpu" and listed.exists() else []
    free = next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable")), None)
    try:
        limit, used = ((_CONTAINER / f"memory.{name}").read_text().strip() for name in ("max", "current"))
    except OSError:
        return free
    return free if free is None or limit == "max" else min(free, max(int(limit) - int(used), 0))
