"""The browser page that trains: plain ES modules in ``page``, and the server that gives them to a browser (docs/web.md)."""
