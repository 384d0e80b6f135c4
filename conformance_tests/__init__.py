"""The conformance tests: whether an implementation of SPEC.md, in any language, is right, rule by rule (PROTOCOL.md)."""

import unilora_spec  # noqa: F401  first, as its first import lets Ctrl-C end in a sentence
