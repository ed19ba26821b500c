"""Requests -> log-likelihoods, with no token computed twice and nothing computed that is not asked for.

trie.py       requests sorted by what the model reads, so that common beginnings are neighbours
packing.py    runs of neighbours that fit a token budget: one pack is one pass through the layers
attention.py  which tokens of a pack attend to which, as a few small attention calls
attending.py  those calls: one by one, many in one kernel (batched.py), or flex attention in their place (flex.py)
forward.py    the pass itself, under many masks at once
scorer.py     `score`: the public function
"""

from lm_eval_prune.scoring.scorer import Answer, score

__all__ = ["Answer", "score"]
