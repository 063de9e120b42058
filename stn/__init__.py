"""The network and its training: all that needs torch."""
