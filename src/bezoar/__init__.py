"""bezoar: from a base model, permissive seed data and feedback to an aligned, evaluated, explained
language model."""

__version__ = "0.2.0"
