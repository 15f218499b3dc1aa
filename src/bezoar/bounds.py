"""Numbers of a recipe by what they may be: pydantic checks them, and the JSON Schema has them."""

from typing import Annotated

from pydantic import Field

Count = Annotated[int, Field(ge=1)]
"""At least 1."""
Natural = Annotated[int, Field(ge=0)]
"""At least 0."""
Positive = Annotated[float, Field(gt=0)]
"""Above 0."""
NotNegative = Annotated[float, Field(ge=0)]
"""At least 0, with a fraction."""
Share = Annotated[float, Field(ge=0, le=1)]
"""From 0 to 1."""
Fraction = Annotated[float, Field(gt=0, le=1)]
"""A share of something: above 0, up to 1."""
Part = Annotated[float, Field(ge=0, lt=1)]
"""A share that leaves something: from 0 to below 1."""
Level = Annotated[int, Field(ge=0, le=4)]
"""Of an attribute, as in HelpSteer."""
