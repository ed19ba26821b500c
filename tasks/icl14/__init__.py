"""The 14 tasks of Bansal et al. 2023 (arXiv 2212.09095) at 0, 1 and 5 shots."""
