"""`python -m lm_eval_prune` is the command `lm-eval-prune`."""

from lm_eval_prune.cli.main import main

if __name__ == "__main__":
    main()
