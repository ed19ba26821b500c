"""Comparison of evaluated variants: table, statistics, figures, the page. Imports neither torch nor lm_eval."""
