"""The pages of this project as a site, as they are: `make docs`."""

project = "Uni-LoRA"
extensions = ["myst_parser"]
root_doc = "docs/site/index"
include_patterns = [
    "docs/**",
    "*.md",
    "unilora_spec/SPEC.md",
    "conformance_tests/PROTOCOL.md",
    "examples/*.md",
    "recipes/*.md",
]
html_theme = "furo"
html_title = "Uni-LoRA"
html_permalinks = False
html_show_copyright = False
html_show_sphinx = False
myst_heading_anchors = 4  # so that links to headings work as they do where the pages are read as files
# A page may link to a file of the code, which the site has as a download, or to a folder, which it has not: tests/test_docs.py
# looks at every link. The worked examples of SPEC.md are fenced by their names, for its test, which are no languages.
suppress_warnings = ["myst.xref_missing", "misc.highlighting_failure"]
