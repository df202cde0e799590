"""Fine-tuning that keeps a model safe: magic-token SFT, Safety Token Regularization, SafeSteer, and what they are compared with."""
