"""The only package that touches lm_eval's internals: start-up hook, model class, results, the run command."""
