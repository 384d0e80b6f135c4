"""The format and its version (SPEC 8.4)."""

from .case import refused
from .tiny import BODY, header, metadata, with_text


def cases():
    yield refused(
        "version",
        "8.4",
        "a file of other tensors",
        with_text('{"theta":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', BODY[:8]),
    )
    yield refused("version", "8.4", "another format", metadata(format="pt"))
    yield refused("version", "8.4", "no format", metadata(format=None))
    yield refused("version", "8.4", "no description", metadata(unilora=None))
    yield refused("version", "8.4", "another field of the metadata", metadata(more=""))
    for version in ("2", "1.0", "01", "", None):
        yield refused("version", "8.4", f"version {version!r}", metadata(version=version))

    def newer(value):
        value["__metadata__"]["version"] = "2"
        value["theta"] = {"dtype": "F4", "shape": [2], "data_offsets": [0, 1], "more": 1}

    yield refused("version", "8.4", "version 2 with tensors of its own", header(newer))
    yield refused("version", "8.4", "version 2 with metadata of its own", metadata(version="2", more=[1]))
    yield refused("version", "8.4", "version 2 with a description of its own", metadata(version="2", unilora="?"))
