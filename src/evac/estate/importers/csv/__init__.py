"""The importer of host lists: CSV, TSV and spreadsheet exports."""
