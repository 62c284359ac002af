"""The `pipa` command: the parser and one file per subcommand."""
