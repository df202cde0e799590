"""The Data Safety Report Card: score histogram and harmful-phrase frequencies, originals beside rewritten text."""
