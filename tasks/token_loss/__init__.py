"""In-context learning as the loss that later tokens of a text lose (Olsson et al. 2022), as a harness task."""
