"""Programs that write the project's generated files, and that check what is written."""
