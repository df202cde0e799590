"""An LLM rewrites unsafe text: recontextualised text, RefuseWeb dialogues, Moral Education articles, and the checks they must pass."""
