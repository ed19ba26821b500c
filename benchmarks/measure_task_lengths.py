"""Counts what the 14 tasks ask of a model at 0, 1 and 5 shots, for `lm-eval-prune plan`.

    python benchmarks/measure_task_lengths.py --benchmarks_data DIR --vocab FILE --merges FILE [--output_path FILE]

DIR is a folder in which the harness's tasks load; FILEs are GPT-2's byte-level BPE, whose merges OPT's tokenizer has.
Means are over the first `--limit` documents of each task; numbers of documents are those of the official splits.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any

import click
import numpy as np
from scoring_requests import TASKS

from lm_eval_prune.files import write_json
from lm_eval_prune.random_opt import opt_config
from lm_eval_prune.scoring.trie import TokenTrie, build_trie

SHOTS = (0, 1, 5)
MAX_LENGTH = 2048
DOCUMENTS = {
    "hellaswag": 10042,
    "piqa": 1838,
    "arc_easy": 2376,
    "arc_challenge": 1172,
    "openbookqa": 500,
    "winogrande": 1267,
    "boolq": 3270,
    "cb": 56,
    "copa": 100,
    "wic": 638,
    "wsc": 104,
    "icl14_multirc": 4848,
    "rte": 277,
    "icl14_record": 10000,
}
"""Documents of the official split that the harness evaluates."""
TRAINING_DOCUMENTS = {
    "hellaswag": 39905,
    "piqa": 16113,
    "arc_easy": 2251,
    "arc_challenge": 1119,
    "openbookqa": 4957,
    "winogrande": 40398,
    "boolq": 9427,
    "cb": 250,
    "copa": 400,
    "wic": 5428,
    "wsc": 554,
    "icl14_multirc": 27243,
    "rte": 2490,
    "icl14_record": 100730,
}
"""Documents of the official training split."""


def tokenizer_of(vocab: str, merges: str) -> Any:
    """GPT-2's BPE with OPT's `</s>` in front of a text; token ids are GPT-2's, of which only the number matters."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE.from_file(vocab, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    bos = "<|endoftext|>"
    number = tokenizer.token_to_id(bos)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, number)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos, eos_token=bos, pad_token=bos)


def harness_model(vocab: str, merges: str) -> Any:
    """A harness model of negligible size that encodes as OPT does."""
    from transformers import OPTForCausalLM

    from lm_eval_prune.harness.model import PrunedOPT

    small = {"num_hidden_layers": 1, "num_attention_heads": 1, "hidden_size": 8, "ffn_dim": 8, "word_embed_proj_dim": 8}
    model = OPTForCausalLM(opt_config("opt-125m", **small))
    return PrunedOPT(model, tokenizer=tokenizer_of(vocab, merges), batch_size=1)


def evaluation_counts(lm: Any, documents: Any) -> dict[str, float]:
    """Per document: what the padded and the packed way compute, padding left out.

    Without shots documents share what they begin with, such as a passage. With shots each begins with examples of its
    own, and what several of them share here is owed to the small training splits of the data at hand.
    """
    from lm_eval_prune.harness.requests import encoded

    groups = [[request.args for request in requests] for requests in documents.instances]
    if not documents.num_fewshot:
        groups = [[pair for group in groups for pair in group]]
    counts: Counter[str] = Counter()
    longest = 0
    for group in groups:
        trie = build_trie(encoded(lm, group), MAX_LENGTH)
        counts.update(_counted(trie))
        longest = max(longest, trie.longest)
    means = {name: round(float(value) / len(documents.docs), 2) for name, value in counts.items()}
    return means | {"longest": longest}


def _counted(trie: TokenTrie) -> dict[str, int]:
    lengths = [len(tokens) for tokens in {tokens.tobytes(): tokens for tokens in trie.inputs}.values()]
    asked: set[bytes] = set()
    for tokens, targets in zip(trie.inputs, trie.targets, strict=True):
        asked |= {tokens[:end].tobytes() for end in range(len(tokens) - len(targets) + 1, len(tokens) + 1)}
    shared = [int(length) for length in trie.shared]
    return {
        "requests": len(trie.inputs),
        "inputs": len(lengths),
        "tokens": sum(lengths),
        "pairs": sum(map(_pairs, lengths)),
        "packed_tokens": sum(len(tokens) for tokens in trie.inputs) - sum(shared),
        "packed_pairs": sum(_pairs(len(tokens)) for tokens in trie.inputs) - sum(map(_pairs, shared)),
        "asked": len(asked),
    }


def _pairs(length: Any) -> Any:
    """(query, key) pairs of causal attention."""
    return length * (length + 1) // 2


def importance_counts(lm: Any, task: Any, num_fewshot: int, limit: int) -> dict[str, float]:
    """Per training document: its gold answer behind its few-shot context."""
    from lm_eval_prune.harness.requests import build_documents, calibration

    documents = build_documents(task, num_fewshot=num_fewshot, limit=limit)
    examples = calibration(lm, documents).examples
    lengths = np.array([min(len(context) + len(answer) - 1, MAX_LENGTH) for context, answer in examples])
    counts = {
        "gold_tokens": lengths.mean(),
        "gold_pairs": _pairs(lengths).mean(),
        "gold_asked": np.mean([len(answer) for _, answer in examples]),
    }
    return {name: round(float(value), 2) for name, value in counts.items()}


@click.command(context_settings={"show_default": True})
@click.option("--benchmarks_data", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--vocab", type=click.Path(exists=True, path_type=Path), required=True, help="GPT-2's encoder.json.")
@click.option("--merges", type=click.Path(exists=True, path_type=Path), required=True, help="GPT-2's vocab.bpe.")
@click.option("--limit", type=int, default=500, help="Documents of a task that are counted.")
@click.option("--train_limit", type=int, default=100, help="Training documents of a task that are counted.")
@click.option("--output_path", type=click.Path(dir_okay=False, path_type=Path))
def main(
    benchmarks_data: Path, vocab: Path, merges: Path, limit: int, train_limit: int, output_path: Path | None
) -> None:
    """Write lm_eval_prune/costs/icl14.json."""
    default = Path(__file__).parent.parent / "lm_eval_prune" / "costs" / "icl14.json"
    output_path = (output_path or default).resolve()
    lm = harness_model(str(vocab.resolve()), str(merges.resolve()))
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    os.chdir(benchmarks_data)
    from lm_eval_prune.harness.requests import build_documents
    from lm_eval_prune.harness.tasks import load_tasks

    tasks = load_tasks(TASKS)
    content: dict[str, Any] = {
        "measured": str(date.today()),
        "tokenizer": "GPT-2's byte-level BPE, whose merges OPT's tokenizer has, behind one BOS",
        "documents_counted": {},
        "tasks": {},
    }
    for name in TASKS:
        task, by_shots = tasks[name], {}
        split = "test" if task.has_test_docs() else "validation"
        for shots in SHOTS:
            documents = build_documents(task, num_fewshot=shots, split=split, limit=limit)
            by_shots[str(shots)] = evaluation_counts(lm, documents) | importance_counts(lm, task, shots, train_limit)
            click.echo(f"{name} {shots}: {json.dumps(by_shots[str(shots)])}")
        content["documents_counted"][name] = len(documents.docs)
        content["tasks"][name] = {
            "documents": DOCUMENTS[name],
            "training_documents": TRAINING_DOCUMENTS[name],
            "by_shots": by_shots,
        }
    write_json(output_path, content)
    click.echo(output_path)


if __name__ == "__main__":
    main()
