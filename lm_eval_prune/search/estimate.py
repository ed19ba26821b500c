"""What a search will take: one mask of each part, measured as a sweep's dry run does, times the masks there will be."""

from __future__ import annotations

import tempfile
from pathlib import Path

from lm_eval_prune.errors import PruneError
from lm_eval_prune.masks import PruningMask
from lm_eval_prune.search.run import SearchConfig
from lm_eval_prune.sweep.estimate import estimate_sweep

__all__ = ["estimate_search"]


def estimate_search(config: SearchConfig, mask: PruningMask) -> list[tuple[str, int, float]]:
    """(part, cells, seconds on one worker) of a search that has not begun. Raises PruneError.

    Time of a part's cells is that of all documents of the tasks times its share.
    """
    share = float(config.sweep.development_share)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "mask.json")
        mask.save(path)
        whole = config.part("all", [path]).model_copy(update={"output_path": Path(folder, "none")})
        found = estimate_sweep(whole)
    if problems := [part.problem for part in found.cells if part.problem]:
        raise PruneError(problems[0])
    cells = sum(part.total for part in found.cells)
    seconds = sum(part.seconds for part in found.cells) / max(1, cells)
    tasks = len(found.cells)
    parts = (("development", share, 2 + config.trials), ("test", 1 - share, 3))
    return [(name, tasks * masks, tasks * masks * seconds * of) for name, of, masks in parts]
