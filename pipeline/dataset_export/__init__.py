"""Synthetic texts of a run as data sets in the shape of SafeWeb, RefuseWeb and Moral Education, each with its card."""
