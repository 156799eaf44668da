"""The war room: HTTP over the office. Pages, an API with OpenAPI, and streams; nothing here acts or decides.

Only this room knows FastAPI, and it is imported late: the libraries are those of the extra `serve`.
"""
