"""Recipes, stages, shards, manifests, ledger, tagging, tokens and the report card of a safety pretraining corpus."""
