"""Where the files of a push come from: folders, archives, streams, arrays. Each is a driver of `port`."""
