"""Decoding that keeps a model safe: Safe Beam Search, Neuron Guided Safe Decoding, modes chosen by magic tokens."""
