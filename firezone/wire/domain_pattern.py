"""Patterns of domain names, as addresses of DNS resources are written.

`?` is one character of a label and `*` any number of them; `**` stands for any number of labels, also none; a leading `*.` or
`**.` makes the bare domain match as well. Within a label the classes of a shell work: `[ab]`, `[a-z]`, `[!x]`. Case does not
matter, nor does a trailing dot. A pattern that cannot be read matches nothing.

Source: gateway 7.3; Firezone `rust/connlib/dns-types`, which uses glob over the labels joined by slashes.
"""

from __future__ import annotations

import functools
import re

_CLASS = re.compile(r"\[(!?)((?:[A-Za-z0-9_](?:-[A-Za-z0-9_])?|-)+)\]")
_PLAIN = re.compile(r"[A-Za-z0-9_\u0080-\U0010ffff-]")


def matches(pattern: str, domain: str) -> bool:
    """Tells whether a domain is one of those that the pattern stands for."""
    compiled = _compile(pattern.lower())
    return compiled is not None and compiled.fullmatch(domain.lower().removesuffix(".")) is not None


def is_pattern(text: str) -> bool:
    """Tells whether a pattern can be read at all."""
    return _compile(text.lower()) is not None


@functools.lru_cache(maxsize=4096)
def _compile(pattern: str) -> re.Pattern[str] | None:
    """Returns an expression that whole domains are matched against, None for what is no pattern.

    Neighbours of one `*` are never another: the expression takes time linear in the domain for each of them.
    """
    labels = pattern.removesuffix(".").split(".")
    leading = ""
    if len(labels) > 1 and labels[0] in ("*", "**"):
        leading = r"(?:[^.]+\.)?" if labels[0] == "*" else r"(?:[^.]+\.)*"
        labels = labels[1:]
    if len(labels) > 127:
        return None
    parts: list[str] = []
    for place, label in enumerate(labels):
        is_last = place == len(labels) - 1
        if label == "**":
            if parts and parts[-1].startswith("(?:[^.]+\\.)*"):
                continue
            parts.append(r"(?:[^.]+\.)*" + (r"[^.]+" if is_last else ""))
            continue
        expression = _label(label)
        if expression is None:
            return None
        parts.append(expression + ("" if is_last else r"\."))
    try:
        return re.compile(leading + "".join(parts))
    except re.error:
        return None


def _label(label: str) -> str | None:
    """Returns the expression of one label, None for what is none."""
    expression, at = "", 0
    if not label or "**" in label:
        return None
    while at < len(label):
        letter = label[at]
        if letter == "[":
            found = _CLASS.match(label, at)
            if found is None:
                return None
            expression += f"[{'^.' if found[1] else ''}{found[2]}]"
            at = found.end()
            continue
        if letter in "*?":
            expression += "[^.]*" if letter == "*" else "[^.]"
        elif _PLAIN.match(letter):
            expression += re.escape(letter)
        else:
            return None
        at += 1
    return f"(?=[^.]){expression}"
