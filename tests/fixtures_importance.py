"""Tiny OPTs of both shapes, and examples of several lengths; imported by the tests of importance and induction."""

from __future__ import annotations

import random

import torch
from transformers import OPTConfig, OPTForCausalLM

VOCABULARY = 96


def tiny_model(*, post_norm=False, seed=0, layers=3, heads=4, dtype=torch.float32, **changes):
    """A seeded OPT of `layers` x `heads` whose biases and norms are random too; post-layer-norm as OPT-350m is."""
    settings = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "ffn_dim": 64,
        "word_embed_proj_dim": 24 if post_norm else 32,
        "do_layer_norm_before": not post_norm,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "max_position_embeddings": 128,
        "init_std": 0.3,
        "bos_token_id": 2,
        "eos_token_id": 2,
        "pad_token_id": 1,
        "dropout": 0.5,  # a forward pass in training mode shows
        "layerdrop": 0.5,
    }
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    model = OPTForCausalLM(OPTConfig(**{**settings, **changes}))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter += 0.2 * torch.randn_like(parameter)
    torch.random.set_rng_state(state)
    return model.to(dtype).eval()


def examples(count=9, seed=0, longest=20):
    """(context, continuation) pairs of different lengths, tokens drawn from the vocabulary's ordinary part."""
    draw = random.Random(seed)

    def tokens(length):
        return [draw.randrange(4, VOCABULARY) for _ in range(length)]

    return [([2, *tokens(draw.randint(0, longest))], tokens(draw.randint(1, 4))) for _ in range(count)]


ANIMALS = ("cat", "dog", "owl", "fox", "hen", "bee", "ant", "cow")

TASKS = {
    # name: the lines that differ; every task reads train.jsonl and valid.jsonl beside it
    "toy_choice": """
output_type: multiple_choice
doc_to_text: "{{text}}\\nAnswer:"
doc_to_choice: ["no", "yes"]
doc_to_target: label
""",
    "toy_inputs": """
output_type: multiple_choice
doc_to_text: "{{label}}"
doc_to_choice: "{{['A ' ~ text, 'The ' ~ text]}}"
doc_to_target: "{{ending}}"
""",
    "toy_generate": """
output_type: generate_until
doc_to_text: "Q: {{text}}\\nA:"
doc_to_target: "{{ending}}"
generation_kwargs: {until: ["\\n"], do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
""",
    "toy_prefix": """
output_type: generate_until
doc_to_text: "Q: {{text}}"
doc_to_target: "{{ending}}"
gen_prefix: "A:"
generation_kwargs: {until: ["\\n"], do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
""",
    "toy_likelihood": """
output_type: loglikelihood
doc_to_text: "{{text}}"
doc_to_target: "{{' ' ~ ending}}"
metric_list:
  - {metric: perplexity, aggregation: perplexity, higher_is_better: false}
""",
    "toy_em": """
output_type: multiple_choice
doc_to_text: "{{text}}"
doc_to_choice: ["no", "yes"]
doc_to_target: "{{['no', 'yes'][label]}}"
process_results: !function em.process_results
metric_list: [{metric: em, aggregation: mean, higher_is_better: true}]
""",
    "toy_hidden": """
output_type: multiple_choice
doc_to_text: "{{text}}"
doc_to_choice: ["no", "yes"]
doc_to_target: hidden
""",
    "toy_rolling": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: word_perplexity}]
""",
}

EM = """
def process_results(doc, results):
    return {"em": float((results[1][0] > results[0][0]) == bool(doc["label"]))}
"""


def documents(count, prefix):
    """`count` documents; the first two of any data set read the same but for their number."""
    return [
        {
            "number": number,
            "text": f"{prefix} {ANIMALS[max(number, 1) % 8]} {max(number, 1)} sat",
            "ending": f"on mat {max(number, 1)}",
            "label": max(number, 1) % 2,
            "hidden": -1,
        }
        for number in range(count)
    ]


def write_tasks(folder):
    """Task definitions of every kind, and their data: 12 training and 6 validation documents. Returns `folder`."""
    import json

    folder.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", 12), ("valid", 6)):
        lines = map(json.dumps, documents(count, split))
        (folder / f"{split}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (folder / "em.py").write_text(EM, encoding="utf-8")
    files = f"dataset_kwargs: {{data_files: {{train: {folder}/train.jsonl, validation: {folder}/valid.jsonl}}}}\n"
    for name, lines in TASKS.items():
        head = f"task: {name}\ndataset_path: json\n{files}training_split: train\nvalidation_split: validation\n"
        (folder / f"{name}.yaml").write_text(head + lines, encoding="utf-8")
    no_train = f"task: toy_no_train\ndataset_path: json\n{files}validation_split: validation\n{TASKS['toy_choice']}"
    (folder / "toy_no_train.yaml").write_text(no_train, encoding="utf-8")
    tested = f"task: toy_tested\ndataset_path: json\n{files}training_split: train\ntest_split: validation\n"
    (folder / "toy_tested.yaml").write_text(tested + TASKS["toy_choice"], encoding="utf-8")
    return folder


def write_super_glue(folder):
    """`aps/super_glue` with the shape of its multirc and record, under the working directory that is to be."""
    import json

    place = folder / "aps" / "super_glue"
    place.mkdir(parents=True)
    rows = {
        "multirc": [
            {
                "paragraph": f"The {animal} sat. It ate.",
                "question": f"What did the {animal} do?",
                "answer": answer,
                "idx": {"paragraph": number, "question": number, "answer": number},
                "label": label,
            }
            for number, (animal, answer, label) in enumerate(zip(ANIMALS, ["sat", "flew"] * 4, [1, 0] * 4, strict=True))
        ],
        "record": [
            {
                "passage": f"{animal} met Zoe and Bob.\n@highlight\nThey spoke\n@highlight\nThey left",
                "query": f"On day {number} @placeholder smiled",
                "entities": ["Zoe", "Bob", animal],
                "answers": ["Zoe", "Bob"],
                "idx": {"passage": number, "query": number},
            }
            for number, animal in enumerate(ANIMALS)
        ],
    }
    configs = []
    for name, documents_of in rows.items():
        (place / name).mkdir()
        for split in ("train", "validation"):
            lines = map(json.dumps, documents_of)
            (place / name / f"{split}.jsonl").write_text("\n".join(lines), encoding="utf-8")
        data = "".join(f"  - {{split: {s}, path: {name}/{s}.jsonl}}\n" for s in ("train", "validation"))
        configs.append(f"- config_name: {name}\n  data_files:\n{data}")
    (place / "README.md").write_text("---\nconfigs:\n" + "".join(configs) + "---\n", encoding="utf-8")
    return folder


def save_checkpoint(folder, **changes):
    """A tiny OPT and a byte tokenizer as a checkpoint folder."""
    from lm_eval_prune.random_opt import small_tokenizer

    settings = {"vocab_size": 300, "max_position_embeddings": 512, **changes}
    tiny_model(**settings).save_pretrained(folder)
    small_tokenizer().save_pretrained(folder)
    return folder


def few_tasks(include_path, include_defaults=True):
    """A task manager of our tasks and those in `include_path`, without reading the harness's thousands."""
    from lm_eval.tasks import TaskManager

    from lm_eval_prune.harness.registration import tasks_folder

    return TaskManager(include_path=[str(tasks_folder()), include_path], include_defaults=False)
