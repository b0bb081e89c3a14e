"""Sides that do the same work in, their CPU times in alternated rounds and JSON rows of their ratios out; and the folder of peers."""

import argparse
import importlib.util
import json
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from machine import machine

INSTALL = "python benchmarks/peers/install.py FOLDER, then give --peers FOLDER or SEMIVSS_PEERS"


def options_of(doc: str | None, rounds: int) -> argparse.Namespace:
    """--quick, --rounds and --peers; the folder of peers, where there is one, is put at the end of the import path."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rounds")
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--peers", default=os.environ.get("SEMIVSS_PEERS"), metavar="FOLDER", help="what peers/install.py made")
    options = parser.parse_args()
    if options.peers:
        if not (Path(options.peers) / "mmcv" / "_ext.py").is_file():
            raise SystemExit(f"--peers {options.peers}: not a folder of peers; {INSTALL}")
        sys.path.append(options.peers)  # at the end: both sides work with the environment's torch, numpy and OpenCV
        warnings.filterwarnings("ignore")  # packages of 2023 use much that is deprecated
    return options


def installed(package: str) -> bool:
    """Whether a peer is there; one line on stderr says how to install it otherwise."""
    found = importlib.util.find_spec(package) is not None
    if not found:
        print(f"{package} is not installed: {INSTALL}", file=sys.stderr)
    return found


def alternated(sides: Mapping[str, Sequence[Callable[[], object]]], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each side's calls, round after round; one more round before them fills caches.

    All sides have equally many calls. They take turns call by call, so that what slows the machine down for a moment meets all of them.
    """
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds + 1):
        spent = dict.fromkeys(sides, 0.0)
        for calls in zip(*sides.values(), strict=True):
            for name, call in zip(sides, calls, strict=True):
                start = time.process_time()
                call()
                spent[name] += time.process_time() - start
        for name, seconds in spent.items():
            if turn:
                times[name].append(seconds)
    return times


def emit(what: str, times: Mapping[str, list[float]], ours: str, peer: str, against: str, *, unit: str, per: int = 1, **more: Any) -> None:
    """One row. `ratio` is how many times as fast as the peer: the median over rounds, with its range. A round is `per` units of work."""
    value = statistics.median(times[ours]) / per
    row: dict[str, Any] = {"what": what, "value": short(1000 * value), "unit": f"CPU ms {unit} (median)", "ratio": None, "against": against}
    if peer in times:
        ratios = [theirs / own for own, theirs in zip(times[ours], times[peer], strict=True)]
        row["ratio"] = short(statistics.median(ratios))
        row["ratio_range"] = [short(min(ratios)), short(max(ratios))]
        row["against_value"] = short(1000 * statistics.median(times[peer]) / per)
    else:
        row["reason"] = f"not installed: {INSTALL}"
    print(json.dumps(row | {"rounds": len(times[ours])} | more | {"machine": machine()}), flush=True)


def short(value: float) -> float:
    """Four digits."""
    return float(f"{value:.4g}")


def named(package: str) -> str:
    """Name and version."""
    return f"{package} {version(package)}"
