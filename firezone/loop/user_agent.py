"""How a program names itself to the portal: what it runs on, and as which component."""

from __future__ import annotations

import contextlib
import platform

from firezone.proto.phoenix.login import USER_AGENT_WORD, user_agent


def system_user_agent(version: str, *, word: str = USER_AGENT_WORD) -> str:
    """Returns the User-Agent of a component on this machine."""
    with contextlib.suppress(OSError):
        release = platform.freedesktop_os_release()
        return user_agent(
            release.get("NAME", "Linux").split()[0], release.get("VERSION_ID", "0"), version,
            arch=platform.machine(), kernel=platform.release(), word=word,
        )  # fmt: skip
    return user_agent("Linux", platform.release(), version, arch=platform.machine(), word=word)
