"""Every number of ../study-smollm2.md that is about rankings: `python rankings.py FOLDER`, of the unpacked study.

They are the functions of `lm_eval_prune.analysis`, whose permutations have fixed seeds. What is about accuracy comes
from `lm-eval-prune leaderboard`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from lm_eval_prune.analysis import agreements, cross_shot, spearman_matrix
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


def between_tasks(folder: Path) -> None:
    print("Between tasks: Spearman's rho of head importance")
    for shots in SHOTS:
        scores = heads(folder, shots)
        for names, told in ((tuple(scores), "all tasks"), (ABOVE_CHANCE, "tasks above chance")):
            pairs = agreements({name: scores[name] for name in names})
            rhos, within = np.array([(pair.rho, pair.rho_within_layers) for pair in pairs]).T
            print(
                f"  {shots}-shot, {told}: {len(pairs)} pairs, mean {rhos.mean():.3f}, "
                f"{rhos.min():.3f} to {rhos.max():.3f}; within layers mean {within.mean():.3f}; shuffled within "
                f"layers, Holm p < 0.05 in {sum(pair.p_within_layers_holm < 0.05 for pair in pairs)} of {len(pairs)}"
            )


def between_shots(folder: Path) -> None:
    print("Between numbers of shots, same task")
    for found in cross_shot({shots: heads(folder, shots) for shots in SHOTS}):
        print(
            f"  {found.first} and {found.second}: mean {found.mean:.3f}, variance {found.variance:.4f}, "
            f"least {found.least:.3f}"
        )


def induction(folder: Path) -> None:
    print("Induction scores and the mean importance over tasks")
    for name in ("prefix-matching", "copying-olsson2022", "copying-bansal2023"):
        scores = loaded(folder.parent / "induction" / f"{name}.json")
        for shots in SHOTS:
            mean = np.mean(list(heads(folder, shots).values()), axis=0)
            (pair,) = agreements({name: scores, "mean": mean})
            overlaps = [
                f"top {float(top.share):.0%}: {top.shared} of {top.kept}, chance {top.expected:.1f}, p {top.p:.2g}"
                for top in pair.tops
                if float(top.share) in (0.1, 0.3)
            ]
            print(
                f"  {name}, {shots}-shot: rho {pair.rho:.3f} (p within layers {pair.p_within_layers:.4f}); "
                f"{'; '.join(overlaps)}"
            )
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
