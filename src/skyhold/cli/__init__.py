"""The command line: `skyhold`. Commands parse arguments, call the registry and print; no rule of the store is defined
here."""
