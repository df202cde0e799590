"""Train a small model on a tagged corpus and on a control, and measure P(tag | context) on held-out documents."""
