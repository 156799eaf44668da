"""Writes docs/reference/openapi.json from the program, so that it cannot drift; --check compares."""

import json
import sys
from pathlib import Path

from evac.engine.clock import SystemClock
from evac.office.office import Office
from evac.office.reckoning import Worker
from evac.store.port import MemoryStore
from evac.web.access.port import Loopback
from evac.web.serving import application
from evac.web.setting import WebSetting

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "openapi.json"


def document() -> str:
    """Of an application that follows nothing: routes and shapes do not depend on an estate."""
    office = Office(MemoryStore(), Worker(Path("nowhere"), apart=False), SystemClock())
    app = application(office, Loopback("nobody"), WebSetting())
    return json.dumps(app.openapi(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def main() -> int:
    text = document()
    if "--check" in sys.argv[1:]:
        if PAGE.read_text("utf-8") == text:
            return 0
        print(f"{PAGE.name} is not fresh: make docs-pages", file=sys.stderr)
        return 1
    PAGE.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
