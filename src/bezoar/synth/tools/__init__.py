"""Function declarations with samplers, phrasings and stubs, and the rows that are made of them."""
