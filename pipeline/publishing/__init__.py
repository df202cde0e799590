"""A finished run or a model on the Hugging Face Hub: what may leave, in which commits, and whether it arrived."""
