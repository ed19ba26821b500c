"""Every number of ../study-smollm2.md that is about rankings: `python rankings.py FOLDER`, of the unpacked study.

Permutations and draws have fixed seeds. What is about accuracy comes from `lm-eval-prune leaderboard`.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
from scipy.stats import hypergeom, rankdata
from statsmodels.stats.multitest import multipletests

from lm_eval_prune.analysis import kept_components, spearman_matrix
from lm_eval_prune.importance.files import ImportanceScores

SHOTS = (0, 1, 5)
ABOVE_CHANCE = ("hellaswag", "piqa", "arc_easy", "copa", "icl14_record")


def heads(folder: Path, shots: int) -> dict[str, np.ndarray]:
    """Task -> importance, [layers, heads]."""
    ending = f"-{shots}shot-heads-gradient.json"
    files = sorted((folder / "importance").glob(f"*{ending}"))
    return {file.name.removesuffix(ending): loaded(file) for file in files if not file.name.startswith("aggregate-")}


def loaded(file: Path) -> np.ndarray:
    """[layers, heads]"""
    return np.array(ImportanceScores.load(file).scores)


def permuted(one: np.ndarray, other: np.ndarray, *, within_layers: bool, number: int = 10_000) -> float:
    """One-sided p of Spearman's rho: how often it is as large with the heads of `other` shuffled."""
    generator = np.random.default_rng(0)
    rank = rankdata(one).reshape(one.shape)
    found = float(np.corrcoef(rank.ravel(), rankdata(other))[0, 1])
    ranks = rankdata(other).reshape(other.shape)
    if within_layers:
        shuffled = generator.permuted(np.broadcast_to(ranks, (number, *ranks.shape)), axis=2)
    else:
        shuffled = generator.permuted(np.broadcast_to(ranks.ravel(), (number, ranks.size)), axis=1)
    centred = rank.ravel() - rank.mean()
    rows = shuffled.reshape(number, -1)
    rhos = (rows - rows.mean(1, keepdims=True)) @ centred / (rows[0].std() * centred.std() * rank.size)
    return (1 + int((rhos >= found).sum())) / (number + 1)


def shared(one: np.ndarray, other: np.ndarray, share: str) -> tuple[int, int, float, float]:
    """Of the top `share` of heads: shared, kept, what chance shares, and its one-sided p (hypergeometric)."""
    pruned = str(1 - float(share))
    first, second = kept_components(one, pruned), kept_components(other, pruned)
    both, kept = len(first & second), len(first)
    return both, kept, kept * kept / one.size, float(hypergeom.sf(both - 1, one.size, kept, kept))


def between_tasks(folder: Path) -> None:
    print("Between tasks: Spearman's rho of head importance")
    for shots in SHOTS:
        scores = heads(folder, shots)
        for names, told in ((tuple(scores), "all tasks"), (ABOVE_CHANCE, "tasks above chance")):
            whole, inside = spearman_matrix([scores[name] for name in names])
            pairs = list(itertools.combinations(range(len(names)), 2))
            rows, columns = zip(*pairs, strict=True)
            rhos, within = whole[rows, columns], inside[rows, columns]
            p = [permuted(scores[names[a]], scores[names[b]], within_layers=True) for a, b in pairs]
            holm = multipletests(p, method="holm")[1]
            print(
                f"  {shots}-shot, {told}: {len(pairs)} pairs, mean {rhos.mean():.3f}, "
                f"{rhos.min():.3f} to {rhos.max():.3f}; within layers mean {within.mean():.3f}; "
                f"shuffled within layers, Holm p < 0.05 in {int((holm < 0.05).sum())} of {len(pairs)}"
            )


def between_shots(folder: Path) -> None:
    print("Between numbers of shots, same task")
    by_shots = {shots: heads(folder, shots) for shots in SHOTS}
    for one, other in itertools.combinations(SHOTS, 2):
        rhos = [float(spearman_matrix([by_shots[one][task], by_shots[other][task]])[0][0, 1]) for task in by_shots[one]]
        print(f"  {one} and {other}: mean {np.mean(rhos):.3f}, variance {np.var(rhos):.4f}, least {min(rhos):.3f}")


def induction(folder: Path) -> None:
    print("Induction scores and the mean importance over tasks")
    for name in ("prefix-matching", "copying-olsson2022", "copying-bansal2023"):
        scores = loaded(folder.parent / "induction" / f"{name}.json")
        for shots in SHOTS:
            mean = np.mean(list(heads(folder, shots).values()), axis=0)
            rho = float(spearman_matrix([scores, mean])[0][0, 1])
            p = permuted(scores, mean, within_layers=True)
            overlaps = []
            for share in ("0.1", "0.3"):
                both, kept, chance, chance_p = shared(scores, mean, share)
                overlaps.append(f"top {float(share):.0%}: {both} of {kept}, chance {chance:.1f}, p {chance_p:.2g}")
            print(f"  {name}, {shots}-shot: rho {rho:.3f} (p within layers {p:.4f}); {'; '.join(overlaps)}")
    prefix = loaded(folder.parent / "induction" / "prefix-matching.json")
    print(f"  prefix matching above 0.5: {int((prefix > 0.5).sum())} of {prefix.size}; largest {prefix.max():.3f}")


def precision(folder: Path) -> None:
    print("bfloat16 and float32, 0 shots")
    one, other = heads(folder, 0), heads(folder.parent / "float32", 0)
    rhos = [float(spearman_matrix([one[task], other[task]])[0][0, 1]) for task in other]
    print(f"  head importance: mean rho {np.mean(rhos):.4f}, least {min(rhos):.4f} over {len(rhos)} tasks")


def main() -> None:
    folder = Path(sys.argv[1]) / "sweep"
    between_tasks(folder)
    between_shots(folder)
    induction(folder)
    precision(folder)


if __name__ == "__main__":
    main()
