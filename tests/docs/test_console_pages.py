"""The reader of documentation pages, tested on small pages of its own."""

from tests.docs.console_pages import Command, Needs, PageFile, WrongFence, output_matches, read_page

PAGE = """
# A page

<!-- file: company/estate.yaml -->
```yaml
sites: []
```

```console
$ evac check company
Well formed.
...

$ evac audit company \\
>   --fail-on error  # exit 3
```

<!-- needs: ../shared/data -->
```bash
evac audit other
```
"""


def test_reads_commands_files_needs_and_wrong_fences_in_order() -> None:
    assert read_page(PAGE) == (
        PageFile("company/estate.yaml", "sites: []\n"),
        Command(10, "evac check company", 0, ("Well formed.", "...")),
        Command(14, "evac audit company --fail-on error  # exit 3", 3, ()),
        Needs("../shared/data"),
        WrongFence(19, "bash"),
    )


def test_a_file_mark_holds_only_for_the_next_fence() -> None:
    page = "<!-- file: a.txt -->\nSome words between.\n```text\nhello\n```\n"
    assert read_page(page) == ()


def test_dollar_lines_outside_console_fences_are_reported() -> None:
    assert read_page("```text\n$ evac check x\n```\n") == (WrongFence(1, "text"),)


def test_fences_inside_lists_lose_their_indent() -> None:
    assert read_page("1. First:\n\n   ```console\n   $ evac --version\n   ```\n") == (
        Command(4, "evac --version", 0, ()),
    )


def test_output_is_compared_line_by_line() -> None:
    assert output_matches(("one", "two"), "one  \ntwo\n\n")
    assert not output_matches(("one", "two"), "one\n")
    assert not output_matches(("one",), "one\ntwo\n")


def test_three_dots_stand_for_anything() -> None:
    assert output_matches(("first", "...", "last"), "first\na\nb\nlast\n")
    assert output_matches(("first", "...", "last"), "first\nlast\n")
    assert output_matches(("took ... s",), "took 12.5 s\n")
    assert not output_matches(("took ... s",), "took 12.5 min\n")


def test_marks_of_regular_expressions_are_plain_text() -> None:
    assert output_matches(("a+b (c)",), "a+b (c)\n")
    assert not output_matches(("a.b",), "axb\n")
