"""The laboratory in which experiments are run, kept and compared: nothing here imports torch."""
