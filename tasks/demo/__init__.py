"""The tasks of the bundled model, group `icl_demo`; found by the harness through the YAML files here."""
