"""Answers to prompts: one engine for base models, chat models, decoders given as objects, and servers; answers are kept."""
