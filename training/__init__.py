"""How the bundled model and the documents of its tasks were made; run from the repository, not part of the package.

`vocabulary.py` holds the words and the tokenizer, `held_out.py` what the model never sees in training, `mixture.py` the
training sequences, `train.py` the training with the settings of `recipe.py`, `documents.py` and `generate_tasks.py` the
documents of the harness tasks `icl_demo`, `measure.py` and `model_card.py` the figures of the model card.
"""
