"""The messages of the portal protocol as typed values, one module per role; protocol version 1.

Every role module has two `Vocabulary` values, one per direction, used by both ends: a device decodes with `FROM_PORTAL` and
encodes with `TO_PORTAL`, a portal the other way round. Version 2 renames events and members and adds some: the vocabularies of
`v2` beside these have the same two names.
"""
