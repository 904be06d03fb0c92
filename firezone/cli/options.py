"""How options read their environment variables: option, then variable, then default; a variable that is set but empty is given.

click takes an empty variable for an absent one and an unknown word in a switch's variable for "off". Both hide mistakes of a unit
file, so this class follows Firezone's programs instead.
"""

from __future__ import annotations

import os
from typing import Any

import click

_TRUE, _FALSE = {"true", "1", "yes", "on"}, {"false", "0", "no", "off"}


class Option(click.Option):
    """An option with variables. The first variable that is set counts.

    An empty variable is the empty text where text is wanted, an error elsewhere; with `empty_is_unset` it counts as absent.
    Switches take true or false, also 1/0, yes/no and on/off.
    """

    def __init__(self, *arguments: Any, empty_is_unset: bool = False, **options: Any) -> None:
        options.setdefault("show_envvar", True)
        super().__init__(*arguments, **options)
        self.empty_is_unset = empty_is_unset

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        names = [self.envvar] if isinstance(self.envvar, str) else self.envvar or ()
        for name in names:
            value = os.environ.get(name)
            if value is None or (not value and self.empty_is_unset):
                continue
            return self._checked(name, value, ctx)
        return None

    def _checked(self, name: str, value: str, ctx: click.Context) -> str:
        if self.is_flag:
            word = value.lower()
            if word not in _TRUE | _FALSE:
                raise click.BadParameter(f"${name} is {value!r}; it must be true or false.", ctx, self)
            return "true" if word in _TRUE else "false"
        if not value and not isinstance(self.type, click.types.StringParamType):
            raise click.BadParameter(f"${name} is set but empty. Give it a value or unset it.", ctx, self)
        return value
