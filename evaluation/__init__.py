"""Is a model safer, and is it still useful: suites of prompts, generation, judges, measures, comparison of results."""
