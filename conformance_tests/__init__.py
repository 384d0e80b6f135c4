"""The conformance tests: whether an implementation of SPEC.md, in any language, is right, rule by rule (PROTOCOL.md)."""
