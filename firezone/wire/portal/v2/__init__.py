"""Version 2 of the portal protocol: the same conversation with other names, and a few messages more.

What a message of version 1 became is a class derived from it, so whoever handles the one handles the other; the vocabularies
here are used where `/<role>/v2/websocket` is the path. They say nothing of version 1 that version 2 has renamed, and refuse to
hear it: that is how a portal tells a device on the wrong path. The relay's protocol has one version.
"""
