"""The command `lm-eval-prune`: one file per subcommand, each a thin skin over a public function."""
