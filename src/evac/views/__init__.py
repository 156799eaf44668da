"""Values to text, JSON, SARIF, JUnit, Markdown, HTML and SVG."""
