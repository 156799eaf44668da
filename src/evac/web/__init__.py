"""The war room: HTTP over the office. Pages, an API with OpenAPI, and streams; nothing here acts or decides.

Only this package uses FastAPI, and it is imported lazily: the libraries come with the extra `serve`.
"""
