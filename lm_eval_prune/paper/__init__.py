"""The whole study of Bansal et al. 2023 for one model: its grids, and a report in the paper's numbering."""
