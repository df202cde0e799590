"""A Megatron-style pretraining loop over `.bin/.idx` files."""
