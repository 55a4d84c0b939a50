"""The command line: `skyhold`. Commands parse, call the registry and show; no rule of the store lives here."""
