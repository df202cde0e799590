"""Results side by side: tables with paired tests, a page down to single answers, a figure."""
