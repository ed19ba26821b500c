"""What a study costs, before it is run: `lm-eval-prune plan`.

dimensions.py  a model's numbers, counted from the model without its weights
workload.py    what tasks ask of a model, in tokens
flops.py       floating-point operations of each stage
memory.py      bytes of weights, keys and values, and activations
devices.py     `8x80GB,cpu:512GB,disk`; placement.py asks which layer goes where
study.py       all of it together; tables.py shows it
"""
